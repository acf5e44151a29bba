"""The doctor's findings on cuts: accuracy, exposure, and why some are not used."""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.daemon.plan import Plan
from split_model.service.findings import Finding, good, warning


def of_privacy(plan: Plan) -> Finding:
    """What protects the features that leave."""
    if None in plan.releases.values():
        return warning("privacy", plan.privacy, "set release.mechanism to 'noise' or 'codebook'")
    return good("privacy", plan.privacy)


def of_accuracy(plan: Plan) -> Iterator[Finding]:
    """The accuracy of the cuts in use, and why others are not used."""
    if text := plan.accuracy.summary(plan.wanted_cuts & plan.accuracy.used):
        yield good("accuracy", text)
    for cut in sorted(plan.wanted_cuts - plan.accuracy.used):
        remedy = plan.accuracy.remedy([cut]) or "planner.accuracy_floor changes the floor or switches it off"
        yield warning("accuracy", f"cut {cut} is not used: {plan.accuracy[cut].text}", remedy)
    for line in plan.accuracy.conclusion(plan.wanted_cuts):
        problem, _, remedy = line.text.partition("; ")
        yield warning("accuracy", problem, remedy)


def of_exposure(plan: Plan) -> Iterator[Finding]:
    """The audited exposure of each cut in use, and the cuts that are not used because of it."""
    exposed = plan.exposure
    chosen = plan.wanted_cuts & plan.accuracy.used
    for cut in sorted(chosen):
        known = exposed[cut]
        if not known.used:
            problem, _, remedy = exposed.why_unused(known).partition("; ")
            yield warning("audit", f"cut {cut} is not used: {problem}", remedy)
    for text in exposed.told(chosen & exposed.used):
        yield good("audit", text)
    for line in exposed.conclusion(chosen):
        problem, _, remedy = line.text.partition("; ")
        yield warning("audit", problem, remedy)

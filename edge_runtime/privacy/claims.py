"""Formats the privacy claims of each cut for the log, per value and whole input. Pure."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from edge_runtime.config.release import ReleaseTable
from edge_runtime.privacy.release import ReleasePlans
from split_model.bundle import Cut
from split_model.privacy import CodebookPlan, NoisePlan, expected_share

_TRUTHS = {"labels": "by labels", "model": "against the whole model", "variance": "of the variance"}


class Line(NamedTuple):
    """One line for the log, with its `logging` level."""

    level: int
    text: str


def claims(cuts: Sequence[Cut], plans: ReleasePlans, release: ReleaseTable) -> Iterator[Line]:
    """Both claims of every cut, each number with its unit, and a warning for an unbounded release."""
    for cut in cuts:
        plan = plans[cut.index]
        if plan is None:
            yield Line(logging.WARNING, f"cut {cut.index}: features leave UNPROTECTED, release.mechanism is 'none'")
        elif isinstance(plan, CodebookPlan):
            yield Line(logging.INFO, _of_codebook(cut, plan))
        else:
            yield Line(logging.INFO, _of_noise(cut, plan, release))
    if release.preset == "cis" and (cheapest := _cheapest(plans)) is not None:
        yield Line(
            logging.WARNING,
            "release.preset = 'cis': no budget limits the releases; a frame costs whole-input epsilon "
            f"{cheapest:.6g} or more",
        )


def _of_noise(cut: Cut, plan: NoisePlan, release: ReleaseTable) -> str:
    return (
        f"cut {cut.index}: {cut.values} values; per-value epsilon at most {plan.per_value_epsilon_max:.2f}, "
        f"mean {plan.per_value_epsilon_mean:.2f}; whole-input epsilon {plan.whole_input_epsilon:.0f} a frame; "
        f"allocation {plan.spec.allocation}{_why(cut, plan.spec.epsilon) if release.wish == 'auto' else ''}"
    )


def _of_codebook(cut: Cut, plan: CodebookPlan) -> str:
    """Both claims of a codebook, with the accuracy that the device could have without the server."""
    return (
        f"cut {cut.index}: codebook of {plan.spec.codewords} codewords, {plan.spec.groups} groups; per-value and "
        f"whole-input epsilon {plan.whole_input_epsilon:.6g} a frame; expected to be right "
        f"{expected_share(plan.book, plan.spec.epsilon):.3f} of the time, a lookup on the device itself "
        f"{plan.book.lookup:.3f} ({_TRUTHS[plan.book.truth]})"
    )


def _why(cut: Cut, epsilon: float) -> str:
    """The basis of the choice of ``auto``."""
    measured = cut.allocation_at(epsilon)
    if measured is None:
        return " (auto: by formula, this bundle has no measurement)"
    return f" (auto: best of {len(measured.trials)} measured at epsilon {measured.epsilon:g})"


def _cheapest(plans: Mapping[int, NoisePlan | CodebookPlan | None]) -> float | None:
    """The least whole-input epsilon of a frame; None if no cut is offered."""
    return min((plan.whole_input_epsilon for plan in plans.values() if plan is not None), default=None)

"""Formats the privacy claims, per value and whole input: a verdict on all cuts, and one line per cut. Pure."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from edge_runtime.config.release import ReleaseTable
from edge_runtime.privacy.release import ReleasePlans
from split_model.bundle import Cut
from split_model.privacy import CodebookPlan, NoisePlan, expected_share
from split_model.service.terminal_text import in_words

#: Up to the first whole-input epsilon of a frame, a release is said to protect the frame as a whole; from the
#: second one on, to hide nothing of it: e to that power bounds nothing in practice.
_PROTECTS, _HIDES_NOTHING = 10.0, 100.0
_TRUTHS = {"labels": "by labels", "model": "against the whole model", "variance": "of the variance"}


class Line(NamedTuple):
    """One line for the log, with its `logging` level."""

    level: int
    text: str


def verdict(plans: ReleasePlans, cuts: Collection[int]) -> str:
    """Whether a frame is protected as a whole, in words, with both epsilons and their units.

    Args:
        plans: The release at each cut.
        cuts: Those that may be used. The verdict is on the one that protects least.

    """
    used = [plans[cut] for cut in sorted(cuts)]
    if not used:
        return "nothing leaves this board"
    protected = [plan for plan in used if plan is not None]
    if len(protected) < len(used):
        return "UNPROTECTED: features leave as they are, and no epsilon holds (release.mechanism = 'none')"
    whole = [plan.whole_input_epsilon for plan in protected]
    if max(whole) <= _PROTECTS:
        word = "a whole frame is protected"
    elif max(whole) < _HIDES_NOTHING:
        word = "a whole frame is protected weakly"
    else:
        word = "a whole frame is NOT hidden, only single values of its features are blurred"
    per_value = max(plan.per_value_epsilon_max for plan in protected)
    return f"{word}: whole-input epsilon {_range(whole)} a frame, per-value epsilon {in_words(per_value)} at most"


def _range(values: Sequence[float]) -> str:
    least, most = in_words(min(values)), in_words(max(values))
    return least if least == most else f"{least} to {most}"


def claims(cuts: Sequence[Cut], plans: ReleasePlans, release: ReleaseTable) -> Iterator[Line]:
    """Both claims of every cut, for a verbose log, and a warning for an unbounded release."""
    for cut in cuts:
        plan = plans[cut.index]
        if plan is None:
            yield Line(logging.DEBUG, f"cut {cut.index}: features leave UNPROTECTED, release.mechanism is 'none'")
        elif isinstance(plan, CodebookPlan):
            yield Line(logging.DEBUG, _of_codebook(cut, plan))
        else:
            yield Line(logging.DEBUG, _of_noise(cut, plan, release))
    if release.preset == "cis" and (cheapest := _cheapest(plans)) is not None:
        yield Line(
            logging.WARNING,
            "release.preset = 'cis': no budget limits the releases; a frame costs whole-input epsilon "
            f"{in_words(cheapest)} or more",
        )


def _of_noise(cut: Cut, plan: NoisePlan, release: ReleaseTable) -> str:
    return (
        f"cut {cut.index}: {cut.values:,} values; "
        f"per-value epsilon at most {in_words(plan.per_value_epsilon_max)}, "
        f"mean {in_words(plan.per_value_epsilon_mean)}; "
        f"whole-input epsilon {in_words(plan.whole_input_epsilon)} a frame; "
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

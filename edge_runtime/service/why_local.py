"""Says why a frame stayed on this board: in a word for programs, in words for people."""

from __future__ import annotations

from typing import Literal, NamedTuple

from edge_runtime.daemon.plan import Plan
from edge_runtime.loop.results import Step
from edge_runtime.planner.prediction import Prediction
from split_model.service.terminal_text import milliseconds

#: ``faster``: done sooner here. ``budget``: the ledger cannot pay. ``link``: it is down. ``server``: it does not
#: take the frame. ``accuracy``: no cut answers well enough. ``audit``: none reveals little enough. ``config``: as
#: configured.
Kind = Literal["", "faster", "budget", "link", "server", "accuracy", "audit", "config"]


class WhyLocal(NamedTuple):
    """The reason, for programs and for people."""

    kind: Kind
    text: str


def why_local(step: Step | None, plan: Plan, *, broke: bool = False) -> WhyLocal:
    """Return the reason why the last frame was answered on this board.

    Args:
        step: The last frame, None if there was none.
        plan: Of the config in force.
        broke: The ledger pays for no more frame.

    Returns:
        Empty texts where that frame was sent, or has no answer, or there was none.

    """
    if step is None or step.result.outcome != "local":
        return WhyLocal("", "")
    return _of_plan(plan) or _of_server(step, plan) or _of_frame(step, plan, broke=broke)


def _of_plan(plan: Plan) -> WhyLocal | None:
    """Why nothing can leave under this config."""
    if plan.config.planner.split == "local":
        return WhyLocal("config", "planner.split = 'local'")
    if plan.allowed:
        return None
    if plan.wanted_cuts & plan.accuracy.used:
        return WhyLocal("audit", "no cut is known to reveal little enough")
    return WhyLocal("accuracy", "no cut is known to answer well enough")


def _of_server(step: Step, plan: Plan) -> WhyLocal | None:
    """Why the server could not take the frame."""
    if not step.view.up:
        return WhyLocal("link", "the link is down")
    if not any(offer.identity == plan.bundle.identity for offer in step.view.offers):
        return WhyLocal("server", "the server does not host this bundle")
    return None


def _of_frame(step: Step, plan: Plan, *, broke: bool) -> WhyLocal:
    """Why it was not sent though it could have been. ``broke``: the ledger pays for nothing."""
    compared = _here_and_best(step, plan.bundle.local)
    if compared is None:
        if broke:
            return WhyLocal("budget", "the privacy ledger cannot pay for a frame")
        return WhyLocal("server", "the server refused frames a moment ago")
    return WhyLocal("faster", f"{_both(*compared)} (predicted)")


def why_none_offloaded(step: Step | None, plan: Plan) -> str | None:
    """Return why no frame of a run was offloaded, as of the last one, for people who wanted to see one.

    Returns:
        A sentence, or None if the reason is logged elsewhere: a fixed split, a link that is down, no usable cut.

    """
    local = plan.bundle.local
    compared = None if step is None or not step.view.up else _here_and_best(step, local)
    if step is None or compared is None or step.decision.split != local:
        return None
    return (
        f"no frame was offloaded: by prediction one takes {_both(*compared)}; "
        f"planner.split = {compared[1].split} sends frames all the same"
    )


def _here_and_best(step: Step, local: int) -> tuple[Prediction, Prediction] | None:
    """The predictions for this board and for the best cut; None where no cut could be used."""
    here = step.decision.expected_at(local)
    cuts = [prediction for prediction in step.decision.predictions if prediction.split != local]
    return None if here is None or not cuts else (here, min(cuts, key=lambda prediction: prediction.total_s))


def _both(here: Prediction, best: Prediction) -> str:
    """The times of this board and of the best cut."""
    return f"{milliseconds(here.total_s)} here, {milliseconds(best.total_s)} by cut {best.split}, the best one"

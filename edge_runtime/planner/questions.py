"""Chooses a question to a server that was too busy, before a frame is sent there again. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from edge_runtime.planner.planner import Decision, Planner
from edge_runtime.planner.prediction import SplitProfile, predict

#: Seconds after which an unanswered question is repeated.
ASK_EVERY_S = 1.0
#: A device returns to a server if the server needs at most this share of the time that it would save.
_WORTH_COMING = 0.5


@dataclass(frozen=True)
class Question:
    """Whether a request at ``cut`` would be answered within ``due_in_s`` of its arrival."""

    cut: int
    due_in_s: float


def question(decision: Decision, withheld: Sequence[SplitProfile], planner: Planner) -> Question | None:
    """Make the question: about the best of some cuts, if it would be better than a local run.

    Args:
        decision: The decision for a frame that runs here.
        withheld: The profiles of the cuts that the server was too busy for.
        planner: The planner of that decision.

    """
    if not withheld:
        return None
    if planner.is_fixed:
        return Question(withheld[0].split, math.inf)
    here = decision.expected_at(planner.local)
    if here is None or decision.seen is None:
        return None
    objective = planner.objective
    seen = replace(decision.seen, queue_s=0.0)
    local_s = planner.profile(planner.local).head_s * seen.load
    best = min(
        (predict(profile, seen, local_s=local_s) for profile in withheld),
        key=lambda prediction: prediction.cost_s(objective),
    )
    if best.cost_s(objective) >= here.cost_s(objective):
        return None
    if objective == "throughput":  # our own requests queue up there: that is no sign of others
        return Question(best.split, math.inf)
    return Question(best.split, _WORTH_COMING * (here.total_s - (best.total_s - best.server_s)))

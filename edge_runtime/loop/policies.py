"""What the objectives ``latency`` and ``throughput`` differ in: values of one frame loop, not code paths of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_runtime.loop.in_flight_limit import IN_FLIGHT
from edge_runtime.planner.prediction import Objective


@dataclass(frozen=True)
class Policy:
    """How a frame loop trades a frame's latency against frames a second.

    Args:
        objective: the cost that the planner weighs.
        most: frames under way at the same time at most.
        decides_after_head: whether to send what the head made is decided once more when it is done.
        plans_ahead: the next frame is taken and planned while the board works on another one, so that the board
            never waits. Else it is taken where that delays neither it nor an earlier one, and a frame that is the
            only one under way is worked on in the thread that iterates.
        in_order: results are handed on in the order in which the frames came, not in which they are done.
        paced: work on the board ends in slots of its expected time, not when it is done (``release.pace``).

    """

    objective: Objective
    most: int
    decides_after_head: bool
    plans_ahead: bool
    in_order: bool
    paced: bool = False


LATENCY = Policy("latency", IN_FLIGHT[1], decides_after_head=True, plans_ahead=False, in_order=True)
THROUGHPUT = Policy("throughput", IN_FLIGHT[1], decides_after_head=False, plans_ahead=True, in_order=False)


def policy_for(objective: Objective, *, paced: bool = False) -> Policy:
    """The policy of an objective."""
    return replace(THROUGHPUT if objective == "throughput" else LATENCY, paced=paced)

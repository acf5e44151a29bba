"""The settings of one frame loop for the objectives ``latency`` and ``throughput``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_runtime.loop.in_flight_limit import IN_FLIGHT
from edge_runtime.planner.prediction import Objective


@dataclass(frozen=True)
class Policy:
    """How a frame loop trades latency against frames per second.

    Args:
        objective: the cost that the planner weighs.
        most: maximum number of frames under way at the same time.
        decides_after_head: the decision to send is made again after the head.
        plans_ahead: the next frame is taken and planned while the board works on another one, so that the board
                never
                waits. Otherwise it is taken when that delays neither it nor an earlier one, and a frame that is
                alone under
                way is processed in the iterating thread.
        in_order: results are yielded in the order of capture, not in the order of completion.
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

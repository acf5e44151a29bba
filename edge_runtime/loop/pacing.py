"""When to take the next frame, while others are under way. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from edge_runtime.loop.board_queue import BoardQueue, Worker
from edge_runtime.loop.decision_inputs import Moment
from edge_runtime.loop.frame_decisions import FrameDecisions
from edge_runtime.loop.frame_states import State, UnderWay
from edge_runtime.loop.server_wait import ServerWait, uplink_busy_s

#: Where a policy plans ahead, the next frame is taken this long before the board's present work is expected to end:
#: `_AHEAD_S`, or this share of that work if longer. Taken earlier it would only grow old, later the board would
#: wait.
_AHEAD_S = 0.02
_AHEAD = 0.5


def board_due_s(queues: Mapping[Worker, BoardQueue], *, is_local: bool, now_s: float) -> float:
    """When the board is about to be free for another frame, one that stays here (``is_local``) or not."""
    if any(queue.waiting for queue in queues.values()):
        return math.inf
    left_s, whole_s = queues[Worker.LOCAL_RUNS if is_local else Worker.HEADS].left_s(now_s)
    return now_s + left_s - max(_AHEAD_S, _AHEAD * whole_s)


def overlap_due_s(
    under_way: Sequence[UnderWay],
    queues: Mapping[Worker, BoardQueue],
    waiting: ServerWait,
    decisions: FrameDecisions,
    moment: Moment,
) -> float:
    """When another frame delays none of those at the server, nor would only wait for their transfers.

    Its head is to be done when the uplink is free again, and all that it may need of the board must be over before
    the latest moment at which one of the earlier frames would be finished here.
    """
    away = [one for one in under_way if one.state is State.AWAY]
    busy = any(queue.busy for queue in queues.values())
    silent = any(moment.links[one.latest.server].estimate.silent_s > 0.0 for one in away)
    if busy or len(away) < len(under_way) or silent:
        return math.inf
    head_s = decisions.head_s(decisions.planner.split)
    link = moment.links[decisions.servers.in_use].estimate
    due_s = moment.now_s + max(0.0, uplink_busy_s(away, link) - head_s)
    needs_s = head_s if decisions.planner.is_fixed else max(head_s, decisions.local_s)
    return due_s if due_s + needs_s <= waiting.first_local_start_s(away, moment.now_s) else math.inf

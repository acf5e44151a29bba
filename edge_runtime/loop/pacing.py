"""Decides when to take the next frame while others are under way. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from edge_runtime.loop.board_queue import BoardQueue, Worker
from edge_runtime.loop.decision_inputs import Moment
from edge_runtime.loop.frame_decisions import FrameDecisions
from edge_runtime.loop.frame_states import State, UnderWay
from edge_runtime.loop.server_wait import ServerWait, uplink_busy_s

#: If a policy plans ahead, the next frame is taken this long before the expected end of the board's present work:
#: #: `_AHEAD_S`, or this share of that work if longer. Earlier, the frame would grow old; later, the board would
#: wait.
_AHEAD_S = 0.02
_AHEAD = 0.5


def board_due_s(queues: Mapping[Worker, BoardQueue], *, is_local: bool, now_s: float) -> float:
    """Time when the board will be free for another frame, a local one (``is_local``) or not."""
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
    """Time when another frame neither delays those at the server nor waits for their transfers.

    Its head should be done when the uplink is free again. All its possible work on the board must be over before
    the latest moment at which a local run of an earlier frame would have to start.
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

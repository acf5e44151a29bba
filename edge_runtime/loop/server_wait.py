"""How long to wait for the server with several frames under way, and how long the uplink is busy. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from edge_runtime.link.estimator import LinkEstimate, wire_bytes
from edge_runtime.loop.board_queue import BoardQueue
from edge_runtime.loop.decision_inputs import Moment
from edge_runtime.loop.frame_decisions import FrameDecisions
from edge_runtime.loop.frame_states import State, UnderWay
from edge_runtime.planner.deadline import is_stalled, local_start_s

#: How often frames at the server are looked at, for deadlines.
CHECK_EVERY_S = 0.04


def uplink_busy_s(at_server: Sequence[UnderWay], link: LinkEstimate) -> float:
    """Seconds until the uplink is through with these frames; infinite where its rate is unknown."""
    if not at_server:
        return 0.0
    left_bytes = sum(
        wire_bytes(one.payload_bytes - one.acked_bytes, one.payload_bytes)
        for one in at_server
        if one.acked_bytes < one.payload_bytes
    )
    if not left_bytes:
        return 0.0
    return math.inf if link.uplink_bytes_s is None else left_bytes / link.uplink_bytes_s


def note_progress(under_way: Mapping[int, UnderWay], acked_bytes: Mapping[int, int], *, now_s: float) -> None:
    """Note how many bytes of each request have arrived, by the frames' keys."""
    for key, acked in acked_bytes.items():
        one = under_way.get(key)
        if one is not None and acked > one.acked_bytes:
            one.acked_bytes, one.progress_s = acked, now_s


class ServerWait:
    """When a frame at the server is to be finished on the board, whose ``local_runs`` it would wait for."""

    def __init__(self, decisions: FrameDecisions, local_runs: BoardQueue, *, answer_within_s: float) -> None:
        self._decisions = decisions
        self._local_runs = local_runs
        self._answer_within_s = answer_within_s

    def goes_on_behind_head(self, one: UnderWay) -> bool:
        """Whether a local run of this frame can go on behind its head."""
        return one.keeps_features and self._decisions.loaded.has_local_tail(one.split)

    def first_local_start_s(self, at_server: Sequence[UnderWay], now_s: float) -> float:
        """The latest moment at which the board must be free for one of these frames; infinite for none."""
        return min((self._local_start_s(one, now_s) for one in at_server), default=math.inf)

    def overdue(self, at_server: Sequence[UnderWay], moment: Moment) -> list[UnderWay]:
        """The frames, of these in the order in which they were sent, that a local run is to begin for now."""
        if at_server and at_server[0].first_s == -math.inf:
            at_server[0].first_s = moment.now_s
        return [
            one
            for one in at_server
            if one.state is State.AWAY and self._is_over(one, moment, is_oldest=one is at_server[0])
        ]

    def _is_over(self, one: UnderWay, moment: Moment, *, is_oldest: bool) -> bool:
        """Whether to finish this frame here: it would be late, or it is the oldest at the server and stuck."""
        if moment.now_s >= self._local_start_s(one, moment.now_s):
            return True
        if self._decisions.planner.is_fixed or not is_oldest:
            return False
        wait_s, _ = self._local_runs.left_s(moment.now_s)
        silent = not one.ahead and moment.link.estimate.silent_s > 0.0
        return is_stalled(one.request(silent=silent), now_s=moment.now_s, local_s=wait_s + self._left_s(one))

    def _local_start_s(self, one: UnderWay, now_s: float) -> float:
        wait_s, _ = self._local_runs.left_s(now_s)
        p95_s = self._decisions.local_p95_s * self._left_s(one) / self._decisions.local_s
        request, within_s = one.request(), self._answer_within_s
        start_s = local_start_s(request, answer_by_s=one.frame.captured_s + within_s, local_p95_s=wait_s + p95_s)
        assert one.sent_s is not None
        # Of one that was late when it was sent, or whose time on the link is unknown: the server gives it up then.
        return min(start_s, max(one.frame.captured_s, one.sent_s) + within_s)

    def _left_s(self, one: UnderWay) -> float:
        return self._decisions.left_s(one.split, has_tail=self.goes_on_behind_head(one))

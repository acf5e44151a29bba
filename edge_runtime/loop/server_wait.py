"""Decides how long to wait for a server with several frames under way. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from edge_runtime.link.estimator import LinkEstimate, wire_bytes
from edge_runtime.loop.board_queue import BoardQueue
from edge_runtime.loop.decision_inputs import Moment
from edge_runtime.loop.frame_decisions import FrameDecisions
from edge_runtime.loop.frame_states import State, UnderWay
from edge_runtime.planner.deadline import InFlight, is_stalled, is_unheard, local_start_s

#: Seconds between two checks of the frames at the server, for deadlines.
CHECK_EVERY_S = 0.04


def uplink_busy_s(at_server: Sequence[UnderWay], link: LinkEstimate) -> float:
    """Seconds until the uplink has sent these frames; infinite if its rate is unknown."""
    if not at_server:
        return 0.0
    left_bytes = sum(
        wire_bytes(one.payload_bytes - one.latest.acked_bytes, one.payload_bytes)
        for one in at_server
        if one.latest.acked_bytes < one.payload_bytes
    )
    if not left_bytes:
        return 0.0
    return math.inf if link.uplink_bytes_s is None else left_bytes / link.uplink_bytes_s


def note_progress(
    under_way: Mapping[int, UnderWay], acked_bytes: Mapping[tuple[int, int], int], *, now_s: float
) -> None:
    """Note the acknowledged bytes of each request, by frame key and server."""
    for (key, server), acked in acked_bytes.items():
        for sent in under_way[key].sent if key in under_way else ():
            if sent.server == server and acked > sent.acked_bytes:
                sent.acked_bytes, sent.progress_s = acked, now_s


def doubted(under_way: Iterable[UnderWay]) -> frozenset[int]:
    """The servers that did not respond in time to a frame, which was then sent to another one."""
    return frozenset(
        sent.server for one in under_way for sent in one.sent[:-1] if sent.is_open and sent is not one.latest
    )


def by_server(at_server: Iterable[UnderWay]) -> dict[int, list[UnderWay]]:
    """Group frames by the server that is expected to answer."""
    found: dict[int, list[UnderWay]] = {}
    for one in at_server:
        found.setdefault(one.latest.server, []).append(one)
    return found


class ServerWait:
    """Decides when to finish a frame at the server on the board, after earlier ``local_runs``."""

    def __init__(self, decisions: FrameDecisions, local_runs: BoardQueue, *, answer_within_s: float) -> None:
        self._decisions = decisions
        self._local_runs = local_runs
        self._answer_within_s = answer_within_s

    def goes_on_behind_head(self, one: UnderWay) -> bool:
        """Whether a local run of this frame can continue after its head."""
        return one.keeps_features and self._decisions.loaded.has_local_tail(one.split)

    def first_local_start_s(self, at_server: Sequence[UnderWay], now_s: float) -> float:
        """The time at which the board must be free for one of these frames; infinite for none."""
        return min((self._local_start_s(one, now_s) for one in at_server), default=math.inf)

    def note_oldest(self, at_server: Sequence[UnderWay], now_s: float) -> None:
        """Note that the oldest request at a server no longer waits for another one."""
        for ones in by_server(at_server).values():
            if ones[0].latest.first_s == -math.inf:
                ones[0].latest.first_s = now_s

    def overdue(self, at_server: Sequence[UnderWay], moment: Moment) -> list[UnderWay]:
        """Those of the frames (in sent order) that need a local run now."""
        oldest = [ones[0] for ones in by_server(at_server).values()]
        return [
            one
            for one in at_server
            if one.state is State.AWAY and self._is_over(one, moment, is_oldest=one in oldest)
        ]

    def is_unheard(self, oldest: UnderWay, moment: Moment, *, other_s: float) -> bool:
        """Whether a server seems unreachable, judged by the oldest request there.

        Args:
            oldest: The frame of that request.
            moment: Now.
            other_s: The seconds that another server is expected to take for it.

        """
        if not moment.links[oldest.latest.server].up:
            return True
        return is_unheard(_in_flight(oldest, moment), now_s=moment.now_s, other_s=other_s)

    def is_worth_sending(self, one: UnderWay, expected_s: float, now_s: float) -> bool:
        """Whether another server is expected to answer in time and before this board."""
        if now_s + expected_s > one.due_at_s:
            return False
        if self._decisions.planner.is_fixed:
            return True
        if one.state is State.RACING:
            return expected_s < self._local_runs.wait_s(now_s)
        wait_s, _ = self._local_runs.left_s(now_s)
        return expected_s < wait_s + self._left_s(one)

    def _is_over(self, one: UnderWay, moment: Moment, *, is_oldest: bool) -> bool:
        """Whether to finish this frame here: it would be late, or it is the oldest at its server and stalled."""
        if moment.now_s >= self._local_start_s(one, moment.now_s):
            return True
        if self._decisions.planner.is_fixed or not is_oldest:
            return False
        wait_s, _ = self._local_runs.left_s(moment.now_s)
        return is_stalled(_in_flight(one, moment), now_s=moment.now_s, local_s=wait_s + self._left_s(one))

    def _local_start_s(self, one: UnderWay, now_s: float) -> float:
        wait_s, _ = self._local_runs.left_s(now_s)
        p95_s = self._decisions.local_p95_s * self._left_s(one) / self._decisions.local_s
        within_s, answer_by_s = self._answer_within_s, one.frame.captured_s + self._answer_within_s
        start_s = min(  # even if it fails over to another server, it must still be finished here in time
            local_start_s(sent.in_flight(one.payload_bytes), answer_by_s=answer_by_s, local_p95_s=wait_s + p95_s)
            for sent in (one.sent[0], one.latest)
        )
        assert one.sent_s is not None
        # It was late when it was sent, or its time on the link is unknown: wait until the server gives it up.
        return min(start_s, max(one.frame.captured_s, one.sent_s) + within_s)

    def _left_s(self, one: UnderWay) -> float:
        return self._decisions.left_s(one.split, has_tail=self.goes_on_behind_head(one))


def _in_flight(one: UnderWay, moment: Moment) -> InFlight:
    """The request that is expected to be answered, as `planner.deadline` takes it."""
    sent = one.latest
    silent = not sent.ahead and moment.links[sent.server].estimate.silent_s > 0.0
    return sent.in_flight(one.payload_bytes, silent=silent)

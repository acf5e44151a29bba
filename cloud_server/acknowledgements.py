"""Delays acknowledgements: one for all chunks that come together, none if the answer comes first. Pure.

A device needs them for its window, and to recognise a link that does not carry its request. It waits 40 ms beyond
the expected time before silence counts (`edge_runtime.planner.deadline`), so the acknowledgement of a whole request
may wait a moment for the answer, which makes it superfluous. The acknowledgement of a part waits a millisecond for
the next chunk; over a fast link all chunks arrive within this time. If answers take longer than that moment, a
whole request is acknowledged at once: this saves a wake-up.
"""

from __future__ import annotations

import math
from collections import deque

from split_model.protocol import messages as wire

#: Seconds after which a request that arrived whole is acknowledged, unless it was answered.
ANSWER_WITHIN_S = 0.02
#: Seconds until a part of a request is acknowledged, with everything that has arrived by then.
GATHER_S = 0.001
#: Weight of an answer in the mean time of recent answers.
_MOVES = 0.25


class Acknowledgements:
    """Waiting acknowledgements by routing id and request. A call's cost is independent of their number."""

    def __init__(self) -> None:
        #: Routing id -> request id -> bytes that have arrived, and whether those are all.
        self._received: dict[bytes, dict[int, tuple[int, bool]]] = {}
        self._arriving: deque[tuple[float, bytes, int]] = deque()
        self._whole: deque[tuple[float, bytes, int]] = deque()
        self._answer_s = 0.0

    def note(self, routing_id: bytes, ack: wire.Ack, *, whole: bool, now_s: float) -> None:
        """Note that more of a request has arrived; ``whole``: all of it has."""
        received = self._received.setdefault(routing_id, {})
        is_noted = not received.get(ack.request_id, (0, True))[1]
        received[ack.request_id] = ack.received_bytes, whole
        if whole:
            hold_s = ANSWER_WITHIN_S if self._answer_s < ANSWER_WITHIN_S else 0.0
            self._whole.append((now_s + hold_s, routing_id, ack.request_id))
        elif not is_noted:
            self._arriving.append((now_s + GATHER_S, routing_id, ack.request_id))

    def answered(self, after_s: float) -> None:
        """Note the seconds from a whole request to its answer."""
        self._answer_s += _MOVES * (after_s - self._answer_s)

    def forget(self, routing_id: bytes, request_id: int) -> None:
        """Drop the acknowledgement of a request that has its outcome."""
        received = self._received.get(routing_id)
        if received is not None and received.pop(request_id, None) is not None and not received:
            del self._received[routing_id]

    def drop(self, routing_id: bytes) -> None:
        """Drop all of a connection that is gone, or whose device starts over."""
        self._received.pop(routing_id, None)

    def flush(self, routing_id: bytes) -> list[wire.Ack]:
        """Take all of one connection, to send at once."""
        return [
            wire.Ack(request_id=request_id, received_bytes=received)
            for request_id, (received, _) in self._received.pop(routing_id, {}).items()
        ]

    @property
    def gathering(self) -> bool:
        """Whether a part came in the last millisecond, so that more of its request may follow at once."""
        self._skip(self._arriving, whole=False)
        return bool(self._arriving)

    def due(self, now_s: float) -> list[tuple[bytes, wire.Ack]]:
        """Take the acknowledgements to send now, with connections: of arriving requests, or overdue ones."""
        due: list[tuple[bytes, wire.Ack]] = []
        if now_s < self._earliest_s():
            return due
        for line, whole in ((self._arriving, False), (self._whole, True)):
            while line and line[0][0] <= now_s:
                _, routing_id, request_id = line.popleft()
                due += self._take(routing_id, request_id, whole=whole)
        return due

    def next_s(self) -> float:
        """Time when `due` will have something to send; infinite for never."""
        self._skip(self._arriving, whole=False)
        self._skip(self._whole, whole=True)
        return self._earliest_s()

    def _earliest_s(self) -> float:
        """Time of the first entry, even if it is outdated."""
        return min(line[0][0] if line else math.inf for line in (self._arriving, self._whole))

    def _skip(self, line: deque[tuple[float, bytes, int]], *, whole: bool) -> None:
        """Remove outdated entries from the front of a line."""
        while line:
            _, routing_id, request_id = line[0]
            if self._received.get(routing_id, {}).get(request_id, (0, None))[1] is whole:
                return
            line.popleft()

    def _take(self, routing_id: bytes, request_id: int, *, whole: bool) -> list[tuple[bytes, wire.Ack]]:
        """Take the acknowledgement of one request; None if it was sent, is answered, or may wait longer."""
        received_bytes, is_whole = self._received.get(routing_id, {}).get(request_id, (0, not whole))
        if is_whole is not whole:
            return []
        self.forget(routing_id, request_id)
        return [(routing_id, wire.Ack(request_id=request_id, received_bytes=received_bytes))]

"""Acknowledgements that wait to be sent: one for chunks that come together, none where the answer comes first.

Pure. A device needs them for its window, and to tell a link that carries its request from one that does not. It
waits 40 ms longer than it expects before it takes silence for a bad sign (`edge_runtime.planner.deadline`), so the
acknowledgement of a whole request may wait a moment for the answer, which says the same and more. That of a part
waits a millisecond for the next chunk: over a fast link all of them come within that time. Where answers take
longer anyway, there is nothing to wait for: a whole request is acknowledged at once, without another wake-up.
"""

from __future__ import annotations

import math
from collections import deque

from split_model.protocol import messages as wire

#: A request that arrived whole is acknowledged after this time, unless it was answered.
ANSWER_WITHIN_S = 0.02
#: A part of a request is acknowledged after this time, with all that has come until then.
GATHER_S = 0.001
#: How much one more answer moves the time that answers take.
_MOVES = 0.25


class Acknowledgements:
    """By connection (its routing id) and request. A call costs the same however many connections there are."""

    def __init__(self) -> None:
        #: Routing id -> request id -> bytes that have arrived, and whether those are all.
        self._received: dict[bytes, dict[int, tuple[int, bool]]] = {}
        self._arriving: deque[tuple[float, bytes, int]] = deque()
        self._whole: deque[tuple[float, bytes, int]] = deque()
        self._answer_s = 0.0

    def note(self, routing_id: bytes, ack: wire.Ack, *, whole: bool, now_s: float) -> None:
        """More of a request has arrived; ``whole`` where that was the rest of it."""
        received = self._received.setdefault(routing_id, {})
        is_noted = not received.get(ack.request_id, (0, True))[1]
        received[ack.request_id] = ack.received_bytes, whole
        if whole:
            hold_s = ANSWER_WITHIN_S if self._answer_s < ANSWER_WITHIN_S else 0.0
            self._whole.append((now_s + hold_s, routing_id, ack.request_id))
        elif not is_noted:
            self._arriving.append((now_s + GATHER_S, routing_id, ack.request_id))

    def answered(self, after_s: float) -> None:
        """An answer came ``after_s`` after its request was whole."""
        self._answer_s += _MOVES * (after_s - self._answer_s)

    def forget(self, routing_id: bytes, request_id: int) -> None:
        """A request has its outcome."""
        received = self._received.get(routing_id)
        if received is not None and received.pop(request_id, None) is not None and not received:
            del self._received[routing_id]

    def drop(self, routing_id: bytes) -> None:
        """A connection is gone, or its device starts over."""
        self._received.pop(routing_id, None)

    def flush(self, routing_id: bytes) -> list[wire.Ack]:
        """All of one connection, to be sent at once."""
        return [
            wire.Ack(request_id=request_id, received_bytes=received)
            for request_id, (received, _) in self._received.pop(routing_id, {}).items()
        ]

    @property
    def gathering(self) -> bool:
        """Whether a part came a moment ago, so that more of its request may be here at once."""
        self._skip(self._arriving, whole=False)
        return bool(self._arriving)

    def due(self, now_s: float) -> list[tuple[bytes, wire.Ack]]:
        """Those to send now, each with its connection: of requests that still arrive, and that wait for long."""
        due: list[tuple[bytes, wire.Ack]] = []
        if now_s < self._earliest_s():
            return due
        for line, whole in ((self._arriving, False), (self._whole, True)):
            while line and line[0][0] <= now_s:
                _, routing_id, request_id = line.popleft()
                due += self._take(routing_id, request_id, whole=whole)
        return due

    def next_s(self) -> float:
        """When `due` has something to send, unless it is answered before; infinite for never."""
        self._skip(self._arriving, whole=False)
        self._skip(self._whole, whole=True)
        return self._earliest_s()

    def _earliest_s(self) -> float:
        """When the first entry is due, whether or not it still has something to say."""
        return min(line[0][0] if line else math.inf for line in (self._arriving, self._whole))

    def _skip(self, line: deque[tuple[float, bytes, int]], *, whole: bool) -> None:
        """Leave out the first entries of a line as long as they have nothing to say any more."""
        while line:
            _, routing_id, request_id = line[0]
            if self._received.get(routing_id, {}).get(request_id, (0, None))[1] is whole:
                return
            line.popleft()

    def _take(self, routing_id: bytes, request_id: int, *, whole: bool) -> list[tuple[bytes, wire.Ack]]:
        """The acknowledgement of one request, or nothing: it was sent, it is answered, or it waits for longer."""
        received_bytes, is_whole = self._received.get(routing_id, {}).get(request_id, (0, not whole))
        if is_whole is not whole:
            return []
        self.forget(routing_id, request_id)
        return [(routing_id, wire.Ack(request_id=request_id, received_bytes=received_bytes))]

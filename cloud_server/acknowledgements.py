"""Delays acknowledgements: one for all chunks of a batch, none if the answer comes first. Pure.

A device needs them for its window, and to recognise a link that does not carry its request. It waits 40 ms beyond
the expected time before silence counts (`edge_runtime.planner.deadline`), so the acknowledgement of a whole request
may wait a moment for the answer, which makes it superfluous.
"""

from __future__ import annotations

import math
from collections import deque

from split_model.protocol import messages as wire

#: Seconds after which a request that arrived whole is acknowledged, unless it was answered.
ANSWER_WITHIN_S = 0.02


class Acknowledgements:
    """Waiting acknowledgements by routing id and request. A call's cost is independent of their number."""

    def __init__(self) -> None:
        #: Routing id -> request id -> bytes that have arrived, and whether those are all.
        self._received: dict[bytes, dict[int, tuple[int, bool]]] = {}
        self._arriving: list[tuple[bytes, int]] = []
        self._whole: deque[tuple[float, bytes, int]] = deque()

    def note(self, routing_id: bytes, ack: wire.Ack, *, whole: bool, now_s: float) -> None:
        """Note that more of a request has arrived; ``whole``: all of it has."""
        received = self._received.setdefault(routing_id, {})
        is_noted = not received.get(ack.request_id, (0, True))[1]
        received[ack.request_id] = ack.received_bytes, whole
        if whole:
            self._whole.append((now_s + ANSWER_WITHIN_S, routing_id, ack.request_id))
        elif not is_noted:
            self._arriving.append((routing_id, ack.request_id))

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

    def due(self, now_s: float) -> list[tuple[bytes, wire.Ack]]:
        """Take those to send now, with connections: of requests still arriving, or those that wait long."""
        due: list[tuple[bytes, wire.Ack]] = []
        for routing_id, request_id in self._arriving:
            due += self._take(routing_id, request_id, whole=False)
        self._arriving.clear()
        while self._whole and self._whole[0][0] <= now_s:
            _, routing_id, request_id = self._whole.popleft()
            due += self._take(routing_id, request_id, whole=True)
        return due

    def next_s(self) -> float:
        """Time when `due` will have something to send; infinite for never."""
        while self._whole and self._whole[0][2] not in self._received.get(self._whole[0][1], ()):
            self._whole.popleft()
        return self._whole[0][0] if self._whole else math.inf

    def _take(self, routing_id: bytes, request_id: int, *, whole: bool) -> list[tuple[bytes, wire.Ack]]:
        """Take the acknowledgement of one request; None if it was sent, is answered, or may wait longer."""
        received_bytes, is_whole = self._received.get(routing_id, {}).get(request_id, (0, not whole))
        if is_whole is not whole:
            return []
        self.forget(routing_id, request_id)
        return [(routing_id, wire.Ack(request_id=request_id, received_bytes=received_bytes))]

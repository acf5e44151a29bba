"""Acknowledgements that wait to be sent: one for all chunks of a batch, none where the answer comes first.

Pure. A device needs them for its window, and to tell a link that carries its request from one that does not. It
waits 40 ms longer than it expects before it takes silence for a bad sign (`edge_runtime.planner.deadline`), so the
acknowledgement of a whole request may wait a moment for the answer, which says the same and more.
"""

from __future__ import annotations

import math
from collections import deque

from split_model.protocol import messages as wire

#: A request that arrived whole is acknowledged after this time, unless it was answered.
ANSWER_WITHIN_S = 0.02


class Acknowledgements:
    """By connection (its routing id) and request. A call costs the same however many connections there are."""

    def __init__(self) -> None:
        #: Routing id -> request id -> bytes that have arrived, and whether those are all.
        self._received: dict[bytes, dict[int, tuple[int, bool]]] = {}
        self._arriving: list[tuple[bytes, int]] = []
        self._whole: deque[tuple[float, bytes, int]] = deque()

    def note(self, routing_id: bytes, ack: wire.Ack, *, whole: bool, now_s: float) -> None:
        """More of a request has arrived; ``whole`` where that was the rest of it."""
        received = self._received.setdefault(routing_id, {})
        is_noted = not received.get(ack.request_id, (0, True))[1]
        received[ack.request_id] = ack.received_bytes, whole
        if whole:
            self._whole.append((now_s + ANSWER_WITHIN_S, routing_id, ack.request_id))
        elif not is_noted:
            self._arriving.append((routing_id, ack.request_id))

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

    def due(self, now_s: float) -> list[tuple[bytes, wire.Ack]]:
        """Those to send now, each with its connection: of requests that still arrive, and that wait for long."""
        due: list[tuple[bytes, wire.Ack]] = []
        for routing_id, request_id in self._arriving:
            due += self._take(routing_id, request_id, whole=False)
        self._arriving.clear()
        while self._whole and self._whole[0][0] <= now_s:
            _, routing_id, request_id = self._whole.popleft()
            due += self._take(routing_id, request_id, whole=True)
        return due

    def next_s(self) -> float:
        """When `due` has something to send, unless it is answered before; infinite for never."""
        while self._whole and self._whole[0][2] not in self._received.get(self._whole[0][1], ()):
            self._whole.popleft()
        return self._whole[0][0] if self._whole else math.inf

    def _take(self, routing_id: bytes, request_id: int, *, whole: bool) -> list[tuple[bytes, wire.Ack]]:
        """The acknowledgement of one request, or nothing: it was sent, it is answered, or it waits for longer."""
        received_bytes, is_whole = self._received.get(routing_id, {}).get(request_id, (0, not whole))
        if is_whole is not whole:
            return []
        self.forget(routing_id, request_id)
        return [(routing_id, wire.Ack(request_id=request_id, received_bytes=received_bytes))]

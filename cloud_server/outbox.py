"""Sends replies: at once, or later if their key has used more than its budget."""

from __future__ import annotations

import heapq
import math

import zmq

from cloud_server.connections import Connections
from cloud_server.sessions import Reply, Sessions
from split_model.protocol import messages as wire

#: Flags as plain integers: combining pyzmq's enums takes longer than sending a frame.
_DONTWAIT, _MORE = int(zmq.DONTWAIT), int(zmq.DONTWAIT | zmq.SNDMORE)
#: Larger payloads are passed to libzmq without a copy.
_COPY_BYTES = 1 << 15


class Outbox:
    """Sends replies by a ROUTER. A key in debt gets them later, which slows its device down."""

    def __init__(self, router: zmq.Socket[bytes], connections: Connections) -> None:
        self._router = router
        self._connections = connections
        self._held: list[tuple[float, int, list[Reply]]] = []  # a heap by time to send, then order of arrival
        self._number = 0

    def next_s(self) -> float:
        """Time when the next delayed replies are due; infinite for none."""
        return self._held[0][0] if self._held else math.inf

    def send_due(self, sessions: Sessions, now_s: float) -> None:
        """Send the replies whose delay is over."""
        while self._held and self._held[0][0] <= now_s:
            send_replies(self._router, sessions, heapq.heappop(self._held)[2])

    def send_when_paid(self, sessions: Sessions, replies: list[Reply], now_s: float) -> None:
        """Send each reply as soon as its key is out of debt."""
        for reply in replies:
            self.send_later(sessions, [reply], self._connections.delay_s(reply.routing_id, now_s), now_s)

    def send_later(self, sessions: Sessions, replies: list[Reply], delay_s: float, now_s: float) -> None:
        """Send replies to one peer after ``delay_s``."""
        if delay_s == 0.0:
            send_replies(self._router, sessions, replies)
        elif replies:
            self._number += 1
            heapq.heappush(self._held, (now_s + delay_s, self._number, replies))


def send_replies(router: zmq.Socket[bytes], sessions: Sessions, replies: list[Reply]) -> None:
    """Send every reply without waiting; a peer that is gone, or does not read, is dropped and counted."""
    for reply in replies:
        error = _send(router, reply)
        if error is None:
            continue
        if error == zmq.EAGAIN:
            sessions.counters.congested += 1
        else:
            sessions.counters.unroutable += 1
        sessions.drop(reply.routing_id)


def _send(router: zmq.Socket[bytes], reply: Reply) -> int | None:
    """Send one reply. Returns EAGAIN or EHOSTUNREACH if the peer does not read or is gone."""
    try:
        router.send(reply.routing_id, _MORE)  # the following frames cannot fail
        if reply.payload is None:
            router.send(wire.encode(reply.message), _DONTWAIT)
        else:
            router.send(wire.encode(reply.message), _MORE)
            router.send(reply.payload, _DONTWAIT, copy=len(reply.payload) < _COPY_BYTES)
    except zmq.ZMQError as error:
        if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
            raise
        return error.errno
    return None

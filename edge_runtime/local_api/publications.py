"""Publishes records to subscribers, without I/O: keeps the latest ones; a slow subscriber misses some.

The records in memory are bounded by number and bytes, whatever the subscribers do. Subscribers share the records,
and each has at most one on its way. If the older records that slow subscribers still read exceed the bound, those
subscribers are disconnected.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from edge_runtime.local_api import messages
from edge_runtime.local_api.framing import Bytes
from edge_runtime.local_api.peer import Peer
from split_model.errors import ProtocolError


@dataclass(frozen=True)
class _Published:
    number: int
    topic: str
    data: bytes


@dataclass
class _Listening:
    """One subscriber. ``next``: number of the next record to look at. ``begun``: the record on its way."""

    topic: str
    next: int
    begun: _Published | None = None


class Publications:
    """A `Service` that sends records. `publish` may be called from another thread than the rest.

    ``published``: records so far. ``lost``: records that slow subscribers missed, counted for each subscriber.
    """

    def __init__(self, *, queue_messages: int, queue_bytes: int) -> None:
        self.published = 0
        self.lost = 0
        self._queue_messages = queue_messages
        self._queue_bytes = queue_bytes
        self._lock = threading.Lock()
        self._latest: deque[_Published] = deque()
        self._latest_bytes = 0
        self._listening: dict[Peer, _Listening] = {}

    @property
    def subscribers(self) -> int:
        """Number of connections that subscribed."""
        return len(self._listening)

    def pass_over(self) -> None:
        """Count a record that has no subscriber."""
        with self._lock:
            self.published += 1

    def publish(self, topic: str, parts: Sequence[Bytes]) -> None:
        """Keep a framed message for the subscribers; `feed` sends it."""
        with self._lock:
            record = _Published(self.published, topic, b"".join(parts))
            self.published += 1
            if not self._listening:
                return
            self._latest.append(record)
            self._latest_bytes += len(record.data)
            while len(self._latest) > 1 and (
                len(self._latest) > self._queue_messages or self._latest_bytes > self._queue_bytes
            ):
                old = self._latest.popleft()
                self._latest_bytes -= len(old.data)
                self.lost += sum(
                    one.next <= old.number and old.topic.startswith(one.topic) for one in self._listening.values()
                )

    def feed(self) -> None:
        """Give every subscriber its next record, and disconnect the slowest if they hold too much memory."""
        with self._lock:
            for peer, listening in self._listening.items():
                self._feed(peer, listening)
            self._end_slowest()

    def announced(self, peer: Peer, header: bytes, body_bytes: int) -> bool:
        """See `Service`."""
        try:
            message = _subscription(header, body_bytes)
        except ProtocolError as error:
            peer.send(messages.refusal(None, "protocol", str(error)))
            peer.end(str(error))
            return False
        with self._lock:
            listening = self._listening.setdefault(peer, _Listening("", 0))
            listening.topic, listening.next = message.topic, self.published
        return False

    def arrived(self, peer: Peer, body: memoryview) -> None:
        """No subscription has a body."""

    def closed(self, peer: Peer) -> None:
        """See `Service`."""
        with self._lock:
            self._listening.pop(peer, None)
            if not self._listening:
                self._latest.clear()
                self._latest_bytes = 0

    def _feed(self, peer: Peer, listening: _Listening) -> None:
        if listening.begun is not None or not self._latest or peer.ending:
            return
        start = max(0, listening.next - self._latest[0].number)
        listening.next = self._latest[-1].number + 1
        for record in itertools.islice(self._latest, start, None):
            if record.topic.startswith(listening.topic):
                listening.begun, listening.next = record, record.number + 1
                break
        if listening.begun is not None:
            peer.send_raw([listening.begun.data], lambda sent: self._sent(peer, listening, sent=sent))

    def _sent(self, peer: Peer, listening: _Listening, *, sent: bool) -> None:
        listening.begun = None
        if sent:
            with self._lock:
                self._feed(peer, listening)

    def _end_slowest(self) -> None:
        """Disconnect readers of the oldest record while records that only they hold exceed the bound."""
        first = self._latest[0].number if self._latest else self.published
        slow: dict[int, list[Peer]] = {}
        sizes: dict[int, int] = {}
        for peer, listening in self._listening.items():
            if (record := listening.begun) is not None and record.number < first:
                slow.setdefault(record.number, []).append(peer)
                sizes[record.number] = len(record.data)
        for number in sorted(slow):
            if sum(sizes.values()) <= self._queue_bytes:
                return
            del sizes[number]
            for peer in slow[number]:
                peer.drop("it reads too slowly")


def _subscription(header: bytes, body_bytes: int) -> messages.Subscribe:
    """Decode a subscription, the only message of this socket; `ProtocolError` for any other."""
    message = messages.decode_to_device(header)
    if not isinstance(message, messages.Subscribe):
        text = "this socket takes subscriptions; submit at the socket of a source of kind 'socket'"
        raise ProtocolError(text)
    if body_bytes:
        raise ProtocolError(f"a subscription with a body of {body_bytes} bytes")
    return message

"""A link and a server in virtual time, for the real device program to run against.

The protocol's state machines are the product's own code; here are only the link, the kernel's buffers and the
server's worker. The link: piecewise-constant capacity, first in, first out, a fixed delay each way; bytes in the
sockets and in the link's queue are sent even if they are not needed any more. Not modelled: loss, TCP's slow start,
and two runs on the board slowing each other down (it has more cores than one).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from benchmarks.adaptive.simulator.clock import Clock
from benchmarks.wire.traces import Trace
from edge_runtime.link.states import TransportEvent
from split_model.protocol import messages as wire
from split_model.protocol.server import Arrived, Cancelled, Limits, PeerSession

Frames = tuple[bytes, memoryview | None]

#: ZMTP and CURVE around every message frame.
FRAME_OVERHEAD_BYTES = 35
#: What the sending socket (64 kB) and the link's queue (32 kB) hold before a send is refused.
BUFFERED_BYTES = (64 << 10) + (32 << 10)
_HALF_SEGMENT_BYTES = 724
#: Outputs of the tail: 1000 classes in float32.
ANSWER_BYTES = 4000


class Lane:
    """One direction: messages are sent one after another at the trace's capacity, then arrive after ``delay_s``.

    A token bucket fills while nothing is sent, and passes up to ``burst_bytes`` at once.
    """

    def __init__(self, clock: Clock, capacity: Trace, delay_s: float, *, burst_bytes: int = 0) -> None:
        self._clock = clock
        self._capacity = capacity
        self._delay_s = delay_s
        self._burst_bits = burst_bytes * 8
        self._free_s = self._there_s = 0.0
        self._queued: deque[tuple[float, int]] = deque()
        self._queued_bytes = 0
        self.sent_bytes = 0

    def room(self) -> bool:
        """Whether the buffers have room for another message."""
        while self._queued and self._queued[0][0] <= self._clock.now_s:
            self._queued_bytes -= self._queued.popleft()[1]
        return self._queued_bytes < BUFFERED_BYTES

    @property
    def room_at_s(self) -> float:
        """Return the time at which the first message of the queue has been sent."""
        return self._queued[0][0] if self._queued else self._clock.now_s

    def send(self, size_bytes: int, arrive: Callable[[], None], *, more: bool = False) -> None:
        """Put a message in; ``arrive`` is called when its last byte is there.

        Where ``more`` follows, that byte comes with the segment it is in: half a segment later on average.
        """
        now_s = self._clock.now_s
        credit_s = min(1.0, self._burst_bits / max(1.0, self._capacity.mbit_s_at(now_s) * 1e6))
        begin_s = max(self._free_s, now_s - credit_s)
        self._free_s = max(now_s, self._capacity.finish_s(begin_s, size_bytes * 8))
        self._queued.append((self._free_s, size_bytes))
        self._queued_bytes += size_bytes
        self.sent_bytes += size_bytes
        there_s = self._capacity.finish_s(self._free_s, _HALF_SEGMENT_BYTES * 8) if more else self._free_s
        self._there_s = max(
            self._there_s, there_s
        )  # nothing overtakes: a cancellation is not there before its request
        self._clock.at(self._there_s + self._delay_s, arrive)


def wire_bytes(frames: Frames) -> int:
    """Return the bytes of a message on the link."""
    header, payload = frames
    return len(header) + FRAME_OVERHEAD_BYTES + (len(payload) + FRAME_OVERHEAD_BYTES if payload is not None else 0)


class ServerSide(Protocol):
    """The server's end of one connection; ``reply`` is called with its messages."""

    reply: Callable[[wire.FromServer, bytes | None], None]

    def receive(self, frames: Frames) -> None:
        """One message of the device has arrived."""


class VirtualTransport:
    """Takes the place of `edge_runtime.link.transport.Transport`: two lanes and the server behind them."""

    address = "tcp://virtual"
    public_key = ""

    def __init__(self, clock: Clock, up: Lane, down: Lane, server: ServerSide) -> None:
        self.woken: Callable[[], None] = lambda: None
        self._clock = clock
        self._up = up
        self._down = down
        self._server = server
        self._inbox: deque[list[memoryview]] = deque()
        self._events: list[TransportEvent] = []
        self.probe_bytes = 0
        self._totals: dict[int, int] = {}
        self._room_at_s = 0.0
        server.reply = self._reply

    def open(self) -> None:
        """Connect at once."""
        self._events.append(TransportEvent.READY)

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def wake(self) -> None:
        """Run the link now: the frame loop has something for it."""
        self._clock.at(self._clock.now_s, self.woken)

    def events(self) -> list[TransportEvent]:
        """Return the events of the connection since the last call."""
        events, self._events = self._events, []
        return events

    def send(self, frames: Frames) -> bool:
        """Put a message into the buffers, if there is room."""
        if not self._up.room():
            if self._room_at_s <= self._clock.now_s:  # one wake-up is enough, however often it is tried
                self._room_at_s = self._up.room_at_s
                self._clock.at(self._room_at_s, self.woken)
            return False
        size_bytes = wire_bytes(frames)
        message = wire.decode_from_device(frames[0])
        if isinstance(message, wire.Probe):
            self.probe_bytes += size_bytes
        self._up.send(size_bytes, lambda: self._server.receive(frames), more=self._goes_on(message, frames))
        return True

    def _goes_on(self, message: wire.FromDevice, frames: Frames) -> bool:
        """Whether more of the same payload follows at once."""
        if isinstance(message, wire.Request):
            self._totals[message.request_id] = message.total_bytes
            offset, total_bytes = 0, message.total_bytes
        elif isinstance(message, wire.Chunk):
            offset, total_bytes = message.offset, self._totals.get(message.request_id, 0)
        elif isinstance(message, wire.Probe):
            offset, total_bytes = message.offset, message.total_bytes
        else:
            return False
        return offset + (0 if frames[1] is None else len(frames[1])) < total_bytes

    def receive(self) -> Iterable[list[memoryview]]:
        """Return the messages that have arrived."""
        while self._inbox:
            yield self._inbox.popleft()

    def _reply(self, message: wire.FromServer, payload: bytes | None) -> None:
        header = wire.encode(message)
        frames = [memoryview(header), *([memoryview(payload)] if payload is not None else [])]
        size_bytes = wire_bytes((header, None if payload is None else memoryview(payload)))
        self._down.send(size_bytes, lambda: self._arrived(frames))

    def _arrived(self, frames: list[memoryview]) -> None:
        self._inbox.append(frames)
        self.woken()


class Server:
    """The real protocol session and one worker that takes ``tail_s[cut]`` for each tail."""

    def __init__(self, clock: Clock, identity: str, tail_s: dict[int, float]) -> None:
        self.reply: Callable[[wire.FromServer, bytes | None], None] = lambda _message, _payload: None
        self._clock = clock
        self._tail_s = tail_s
        self._free_s = 0.0
        self._wanted: set[int] = set()
        self._peer = PeerSession(
            user_id="virtual",
            boot_id="0" * 32,
            offers=(wire.Offer(identity=identity, name="virtual", cuts=tuple(tail_s)),),
            admit=lambda _: None,
            limits=Limits(),
            now_s=0.0,
        )

    def receive(self, frames: Frames) -> None:
        """One message of the device has arrived."""
        views = [memoryview(frames[0]), *([frames[1]] if frames[1] is not None else [])]
        replies, events = self._peer.receive(views, self._clock.now_s)
        for reply in replies:
            self.reply(reply, None)
        for event in events:
            if isinstance(event, Arrived):
                self._queue(event)
            elif isinstance(event, Cancelled):
                self._wanted.discard(event.request_id)

    def _queue(self, event: Arrived) -> None:
        now_s = self._clock.now_s
        begin_s = max(now_s, self._free_s)
        if begin_s >= event.started_s + event.request.due_in_s:
            refusal = wire.Refusal(request_id=event.request.request_id, code="expired", text="too late")
            self.reply(refusal, None)
            return
        tail_s = self._tail_s[event.request.cut]
        self._free_s = begin_s + tail_s
        answer = wire.Answer(
            request_id=event.request.request_id,
            tensors=(wire.AnswerTensor(dtype="float32", shape=(1, ANSWER_BYTES // 4)),),
            timed_bytes=event.timed_bytes,
            receive_s=event.receive_s,
            queue_s=begin_s - now_s,
            tail_s=tail_s,
        )
        self._wanted.add(event.request.request_id)
        self._clock.at(self._free_s, lambda: self._answer(answer))

    def _answer(self, answer: wire.Answer) -> None:
        if answer.request_id in self._wanted:
            self._wanted.discard(answer.request_id)
            self.reply(answer, bytes(ANSWER_BYTES))

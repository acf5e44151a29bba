"""The device's side of a connection: a state machine without I/O.

Bytes in, events out; the link thread owns the sockets and the clock::

    CLOSED ──connected──► GREETING ──welcome──► READY
       ▲                     │  ▲                 │
       │                     │  └──hello_first────┘
       │                  version
       │                     ▼
       └──disconnected── REFUSED            (disconnected leads to CLOSED from everywhere)

A request outlives its connection: until it is answered, refused or cancelled, the same bytes are sent again on the
next connection. Sending the same bytes twice is one release; new noise would make it a second.
"""

# Over 300 lines: all that a connection may hear, and all that waits to be sent on it.

from __future__ import annotations

import math
from collections import deque

from msgspec.structs import replace

from split_model.errors import ProtocolError
from split_model.protocol import messages as wire
from split_model.protocol.chunks import Outgoing
from split_model.protocol.device_events import Advised, Answered, Event, Forgotten, Late, Probed, Refused, Welcomed
from split_model.protocol.device_states import TRANSITIONS, Input, State
from split_model.protocol.uploads import OpenProbe, Progress, Upload

__all__ = [
    "Advised",
    "Answered",
    "DeviceSession",
    "Event",
    "Forgotten",
    "Frames",
    "Late",
    "Probed",
    "Refused",
    "Welcomed",
]

Frames = tuple[bytes, memoryview | None]

#: Maximum number of unanswered questions that are remembered.
_OPEN_ASKS = 16
#: For this many seconds after a server refused a request for lack of time, requests send their first chunk alone,
#: and #: the others after its acknowledgement, as they may be refused too.
_FOR_NOW, _HELD_S = ("busy", "expired"), 2.0


class DeviceSession:
    """One device's session with one server: bytes and times in, messages and events out."""

    def __init__(self, *, boot_id: str, software: str, versions: tuple[int, ...] = wire.VERSIONS) -> None:
        self.state = State.CLOSED
        self.boot_id = boot_id
        self.welcome: wire.Welcome | None = None
        self.window_bytes = wire.CHUNK_BYTES * 4
        self._hello = wire.Hello(versions=versions, boot_id=boot_id, software=software)
        self._control: deque[Frames] = deque()
        self._pending: dict[int, Upload] = {}
        self._probes: dict[int, OpenProbe] = {}
        self._next_probe_id = 0
        self._asked: dict[int, wire.Ask] = {}
        self._next_ask_id = 0
        self._report: wire.Report | None = None
        self._held_until_s = -math.inf
        self._handed_out: Upload | OpenProbe | None = None  # the upload of the last chunk from `next_message`

    def connected(self) -> None:
        """Note that the transport is up: greet, and restart every open request."""
        self._step(Input.CONNECTED)
        self._restart()

    def disconnected(self) -> None:
        """Note that the transport is down; requests are kept, probes are dropped."""
        self._step(Input.DISCONNECTED)
        self._control.clear()
        self._probes.clear()
        self._asked.clear()
        self._report = None

    @property
    def open_requests(self) -> int:
        """Number of requests without an outcome."""
        return len(self._pending)

    @property
    def open_probes(self) -> int:
        """Number of probes without a reply."""
        return len(self._probes)

    def acked_bytes(self, request_id: int) -> int:
        """Acknowledged bytes of an open request; 0 if it is not open."""
        pending = self._pending.get(request_id)
        return pending.outgoing.acked_bytes if pending else 0

    def first_sent_s(self, request_id: int) -> float | None:
        """Time when the first chunk of an open request was sent on this connection."""
        pending = self._pending.get(request_id)
        return pending.first_sent_s if pending else None

    def progress(self, request_id: int) -> Progress | None:
        """The progress of a request; None if it is not open."""
        pending = self._pending.get(request_id)
        if pending is None:
            return None
        return Progress(
            pending.outgoing.total_bytes,
            pending.outgoing.acked_bytes,
            pending.first_sent_s,
            pending.others_bytes,
            pending.others_at_s,
        )

    def submit(self, request: wire.Request, payload: memoryview, *, due_at_s: float) -> None:
        """Queue a request; its ``due_in_s`` and ``version`` are set when its first chunk is sent."""
        self._pending[request.request_id] = Upload(request, Outgoing(payload), due_at_s)

    def cancel(self, request_id: int) -> None:
        """Cancel a request; its unsent chunks are dropped."""
        pending = self._pending.pop(request_id, None)
        if pending and pending.first_sent_s is not None and self.state is State.READY:
            self._control.append((wire.encode(wire.Cancel(request_id=request_id)), None))

    def probe(self, total_bytes: int) -> None:
        """Queue a probe of ``total_bytes`` content-free bytes; 0 is a ping."""
        if self.state is State.READY:
            self._probes[self._next_probe_id] = OpenProbe(
                total_bytes, None, Outgoing(memoryview(bytes(total_bytes)))
            )
            self._next_probe_id += 1

    def ask(self, bundle: str, cut: int, *, due_in_s: float) -> bool:
        """Queue a question about a request at a cut; returns False if this server cannot be asked."""
        welcome = self.welcome
        if self.state is not State.READY or welcome is None or welcome.version < wire.LOAD_VERSION:
            return False
        message = wire.Ask(ask_id=self._next_ask_id, bundle=bundle, cut=cut, due_in_s=max(0.0, due_in_s))
        self._next_ask_id += 1
        self._asked[message.ask_id] = message
        if len(self._asked) > _OPEN_ASKS:
            del self._asked[next(iter(self._asked))]
        self._control.append((wire.encode(message), None))
        return True

    def report(self, report: wire.Report) -> bool:
        """Queue a report, replacing an unsent one; returns whether this server accepts reports."""
        welcome = self.welcome
        if self.state is not State.READY or welcome is None or welcome.version < wire.REPORT_VERSION:
            return False
        self._report = report
        return True

    def next_message(self, now_s: float) -> Frames | None:
        """Take the next message to send, or None; call it while the socket accepts messages."""
        self._handed_out = None
        if self.state in (State.GREETING, State.READY) and self._control:
            return self._control.popleft()
        if self.state is not State.READY:
            return None
        if self._report is not None:
            report, self._report = self._report, None
            return wire.encode(report), None
        return self._next_probe(now_s) or self._next_chunk(now_s)

    def put_back(self, frames: Frames) -> None:
        """Take the last message back, as the socket did not accept it.

        So a request that is cancelled before the socket accepts its chunk sends nothing more.
        """
        _, chunk = frames
        if self._handed_out is None or chunk is None:
            self._control.appendleft(frames)
        else:
            self._handed_out.unsend(chunk)

    def receive(self, frames: list[memoryview], now_s: float) -> list[Event]:
        """Handle one message from the server; `ProtocolError` if it breaks the protocol."""
        if not 1 <= len(frames) <= wire.MAX_FRAMES:
            raise ProtocolError(f"message of {len(frames)} frames from the server")
        message = wire.decode_from_server(frames[0])
        if isinstance(message, wire.Answer):
            return [self._answered(message, frames, now_s)]
        if len(frames) != 1:
            raise ProtocolError(f"{type(message).__name__} with a payload from the server")
        if isinstance(message, wire.Ack):
            return self._acknowledged(message, now_s)
        if isinstance(message, wire.ProbeReply):
            return self._probed(message, now_s)
        if isinstance(message, wire.AskReply):
            return self._advised(message)
        if isinstance(message, wire.Welcome):
            return self._welcomed(message)
        return self._refused(message, now_s)

    def _acknowledged(self, message: wire.Ack, now_s: float) -> list[Event]:
        if pending := self._pending.get(message.request_id):
            before_bytes = pending.outgoing.acked_bytes
            pending.outgoing.acknowledge(message.received_bytes)
            self._others_see(pending, pending.outgoing.acked_bytes - before_bytes, now_s)
        return []

    def _probed(self, message: wire.ProbeReply, now_s: float) -> list[Event]:
        probe = self._probes.pop(message.probe_id, None)
        if probe is None or probe.sent_s is None:
            return []
        elapsed_s = now_s - probe.sent_s
        return [Probed(probe.total_bytes, message.timed_bytes, message.receive_s, elapsed_s)]

    def _advised(self, message: wire.AskReply) -> list[Event]:
        ask = self._asked.pop(message.ask_id, None)
        return [] if ask is None else [Advised(ask.bundle, ask.cut, message.load)]

    def _step(self, what: Input) -> None:
        try:
            self.state = TRANSITIONS[self.state, what]
        except KeyError:
            raise ProtocolError(f"{what.name.lower()} while {self.state.name.lower()}") from None

    def _restart(self) -> None:
        self._control.clear()
        self._control.append((wire.encode(self._hello), None))
        self._probes.clear()
        self._asked.clear()
        self._report = None
        for pending in self._pending.values():
            pending.outgoing.rewind()
            pending.first_sent_s = None
            pending.others_bytes, pending.others_at_s = 0, -math.inf

    def _welcomed(self, message: wire.Welcome) -> list[Event]:
        if message.version not in self._hello.versions:
            raise ProtocolError(f"the server chose version {message.version}, we speak {self._hello.versions}")
        self._step(Input.WELCOME)
        self.welcome = message
        return [Welcomed(message)]

    def _refused(self, message: wire.Refusal, now_s: float) -> list[Event]:
        if message.request_id is not None:
            if self._pending.pop(message.request_id, None) is None:
                return []
            if message.code in _FOR_NOW:
                self._held_until_s = now_s + _HELD_S
        elif message.code == "hello_first":
            # While greeting, this answers a message from before our hello. A second hello would cause a second
            # welcome, and the # server would drop everything between the two.
            greeting = self.state is State.GREETING
            self._step(Input.HELLO_FIRST)
            if greeting:
                return []
            self._restart()
            return [Forgotten()]
        elif message.code == "version":
            self._step(Input.VERSION)
        return [Refused(message.request_id, message.code, wire.shown(message.text), message.load)]

    def _answered(self, message: wire.Answer, frames: list[memoryview], now_s: float) -> Event:
        if len(frames) != 2:
            raise ProtocolError("answer without a payload")
        pending = self._pending.get(message.request_id)
        if pending is None or pending.first_sent_s is None:  # not asked for yet: it is sent all the same
            return Late(message.request_id)
        del self._pending[message.request_id]
        self._others_see(pending, pending.outgoing.unacked_bytes, now_s)
        elapsed_s = now_s - pending.first_sent_s
        total_bytes = pending.outgoing.total_bytes
        return Answered(message.request_id, message, frames[1], total_bytes, elapsed_s, pending.held)

    def _others_see(self, arrived: Upload, arrived_bytes: int, now_s: float) -> None:
        """Note for every other request under way that the link carried these bytes meanwhile."""
        for pending in self._pending.values():
            if pending is not arrived and pending.first_sent_s is not None and arrived_bytes > 0:
                pending.others_bytes += arrived_bytes
                pending.others_at_s = now_s

    def _next_probe(self, now_s: float) -> Frames | None:
        for probe_id, probe in self._probes.items():
            outgoing = probe.outgoing
            if probe.sent_s is not None and outgoing.all_sent:
                continue
            probe.sent_s = now_s if probe.sent_s is None else probe.sent_s
            self._handed_out = probe
            offset, chunk = outgoing.next_chunk()
            header = wire.Probe(probe_id=probe_id, offset=offset, total_bytes=probe.total_bytes)
            return wire.encode(header), chunk
        return None

    def _next_chunk(self, now_s: float) -> Frames | None:
        for pending in self._pending.values():
            outgoing = pending.outgoing
            if pending.first_sent_s is not None and outgoing.all_sent:
                continue
            if pending.held and pending.first_sent_s is not None and outgoing.acked_bytes == 0:
                continue
            if outgoing.unacked_bytes >= self.window_bytes:
                return None
            self._handed_out = pending
            offset, chunk = outgoing.next_chunk()
            if pending.first_sent_s is not None:
                return wire.encode(wire.Chunk(request_id=pending.request.request_id, offset=offset)), chunk
            pending.first_sent_s, pending.held = now_s, now_s < self._held_until_s
            version = pending.request.version if self.welcome is None else self.welcome.version
            due_in_s = max(0.0, pending.due_at_s - now_s)
            request = replace(pending.request, due_in_s=due_in_s, version=version)
            return wire.encode(request), chunk
        return None

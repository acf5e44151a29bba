"""The server's side of one connection: a state machine without I/O.

The gateway passes it every message of one peer, and sends the replies. `Limits` bound the memory for a peer,
whatever it sends: nothing is stored before its request is admitted.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from split_model.errors import ProtocolError
from split_model.protocol import messages as wire
from split_model.protocol.chunks import Incoming

#: Maximum bytes of a probe.
MAX_PROBE_BYTES = 256 << 10


@dataclass(frozen=True)
class Limits:
    """Limits of one peer."""

    request_bytes: int = 16 << 20
    open_requests: int = 4
    open_probes: int = 4
    window_bytes: int = 1 << 20


class Arrived(msgspec.Struct, frozen=True):
    """A complete request; the gateway gives it to the engine."""

    request: wire.Request
    payload: bytearray
    started_s: float
    timed_bytes: int
    receive_s: float


class Cancelled(msgspec.Struct, frozen=True):
    """The peer cancelled a request."""

    request_id: int


class Greeted(msgspec.Struct, frozen=True):
    """The peer said hello; its previous connection with the same boot id is dead."""

    boot_id: str
    software: str


class Reported(msgspec.Struct, frozen=True):
    """The peer sent a status report."""

    report: wire.Report


class Denial(NamedTuple):
    """The reason of a refusal and, if the server is busy, the time until a retry."""

    code: wire.RefusalCode
    text: str
    load: wire.Load | None = None


Event = Arrived | Cancelled | Greeted | Reported
#: Returns the reason why a request is refused, None if it is admitted.
Admission = Callable[[wire.Request], Denial | None]
#: Returns the load report for a device that asks first.
Advice = Callable[[wire.Ask], wire.Load]


def _welcome_always(_ask: wire.Ask) -> wire.Load:
    return wire.Load(queue_s=0.0, retry_s=0.0)


class PeerSession:
    """One peer's session.

    Attributes:
        user_id: The peer's authenticated public key.
        held_bytes: Bytes of incomplete requests and probes.

    """

    def __init__(
        self,
        *,
        user_id: str,
        boot_id: str,
        offers: tuple[wire.Offer, ...],
        admit: Admission,
        limits: Limits,
        now_s: float,
        advise: Advice = _welcome_always,
    ) -> None:
        self.user_id = user_id
        self.peer_boot_id: str | None = None
        self._version = wire.VERSIONS[-1]
        self.heard_s = now_s
        self.held_bytes = 0
        self._boot_id = boot_id
        self._offers = offers
        self._admit = admit
        self._advise = advise
        self._limits = limits
        self._incoming: dict[int, tuple[wire.Request, Incoming]] = {}
        self._probes: dict[int, Incoming] = {}

    @property
    def takes_load(self) -> bool:
        """Whether this peer supports `Load` in answers and refusals."""
        return self._version >= wire.LOAD_VERSION

    @property
    def open_requests(self) -> AbstractSet[int]:
        """A live view of the admitted requests with incomplete payloads."""
        return self._incoming.keys()

    def receive(self, frames: list[memoryview], now_s: float) -> tuple[list[wire.FromServer], list[Event]]:
        """Handle one message of the peer; returns replies and events. Never raises for bad bytes.

        A malformed message ends the request that it names; the peer's other requests go on.
        """
        self.heard_s = now_s
        try:
            return self._receive(frames, now_s)
        except ProtocolError as error:
            request_id = wire.request_of(frames[0]) if frames else None
            if request_id is not None:
                self._drop(request_id)
            return [_refuse(request_id, "protocol", str(error))], []

    def _receive(self, frames: list[memoryview], now_s: float) -> tuple[list[wire.FromServer], list[Event]]:
        if not 1 <= len(frames) <= wire.MAX_FRAMES:
            raise ProtocolError(f"message of {len(frames)} frames")
        message = wire.decode_from_device(frames[0])
        payload = frames[1] if len(frames) > 1 else None
        if isinstance(message, wire.Hello):
            return self._hello(message)
        if self.peer_boot_id is None:
            return [_refuse(None, "hello_first", "greet first: this server does not know you")], []
        return self._dispatch(message, payload, now_s)

    def _dispatch(
        self, message: wire.FromDevice, payload: memoryview | None, now_s: float
    ) -> tuple[list[wire.FromServer], list[Event]]:
        if isinstance(message, wire.Cancel):
            self._drop(message.request_id)
            return [], [Cancelled(message.request_id)]
        if isinstance(message, wire.Ask):
            return [wire.AskReply(ask_id=message.ask_id, load=self._advise(message))], []
        if isinstance(message, wire.Report):
            if self._version < wire.REPORT_VERSION or payload is not None:
                raise ProtocolError(f"a report is one frame, from protocol version {wire.REPORT_VERSION} on")
            return [], [Reported(message)]
        if payload is None:
            raise ProtocolError(f"{type(message).__name__} without its payload frame")
        if len(payload) > wire.MAX_CHUNK_BYTES:
            raise ProtocolError(f"chunk of {len(payload)} bytes is over {wire.MAX_CHUNK_BYTES}")
        if isinstance(message, wire.Request):
            return self._request(message, payload, now_s)
        if isinstance(message, wire.Chunk):
            return self._chunk(message.request_id, message.offset, payload, now_s)
        if isinstance(message, wire.Probe):
            return self._probe(message, payload, now_s), []
        raise ProtocolError(f"{type(message).__name__} is not a device's message here")

    def _hello(self, message: wire.Hello) -> tuple[list[wire.FromServer], list[Event]]:
        version = wire.agree_version(message.versions)
        if version is None:
            ours = ", ".join(map(str, wire.VERSIONS))
            theirs = ", ".join(map(str, message.versions))
            text = f"this server speaks protocol {ours}, you speak {theirs or 'none'}"
            return [_refuse(None, "version", text)], []
        self.peer_boot_id, self._version = message.boot_id, version
        self._incoming.clear()
        self._probes.clear()
        self.held_bytes = 0
        welcome = wire.Welcome(
            version=version,
            boot_id=self._boot_id,
            window_bytes=self._limits.window_bytes,
            request_bytes=self._limits.request_bytes,
            offers=self._offers,
        )
        return [welcome], [Greeted(message.boot_id, message.software)]

    def _request(
        self, message: wire.Request, payload: memoryview, now_s: float
    ) -> tuple[list[wire.FromServer], list[Event]]:
        refusal = self._reason_to_refuse(message)
        if refusal is not None:
            load = refusal.load if self.takes_load else None
            return [_refuse(message.request_id, refusal.code, refusal.text, load)], []
        self._incoming[message.request_id] = (message, Incoming(message.total_bytes, now_s=now_s))
        self.held_bytes += message.total_bytes
        return self._chunk(message.request_id, 0, payload, now_s)

    def _reason_to_refuse(self, message: wire.Request) -> Denial | None:
        if message.version not in wire.VERSIONS:
            text = f"request in protocol version {message.version}, this server speaks {wire.VERSIONS}"
            return Denial("version", text)
        if message.boot_id != self.peer_boot_id:
            return Denial("protocol", "request with another boot id than the hello's")
        if message.total_bytes > self._limits.request_bytes:
            text = f"{message.total_bytes} bytes of features, the limit is {self._limits.request_bytes}"
            return Denial("too_large", text)
        if message.request_id in self._incoming:
            return Denial("protocol", f"request {message.request_id} is open already")
        if len(self._incoming) >= self._limits.open_requests:
            return Denial("busy", f"{len(self._incoming)} of your requests are open already")
        return self._admit(message)

    def _chunk(
        self, request_id: int, offset: int, payload: memoryview, now_s: float
    ) -> tuple[list[wire.FromServer], list[Event]]:
        found = self._incoming.get(request_id)
        if found is None:
            return [], []  # cancelled or refused while this chunk was on its way
        request, incoming = found
        try:
            incoming.add(offset, payload, now_s=now_s)
        except ProtocolError as error:
            self._drop(request_id)
            return [_refuse(request_id, "protocol", str(error))], []
        ack = wire.Ack(request_id=request_id, received_bytes=incoming.received_bytes)
        if not incoming.complete:
            return [ack], []
        self._drop(request_id)
        done = Arrived(request, incoming.buffer, incoming.started_s, incoming.timed_bytes, incoming.receive_s)
        return [ack], [done]

    def _drop(self, request_id: int) -> None:
        """Drop a request."""
        found = self._incoming.pop(request_id, None)
        if found is not None:
            self.held_bytes -= found[0].total_bytes

    def _probe(self, message: wire.Probe, payload: memoryview, now_s: float) -> list[wire.FromServer]:
        incoming = self._probes.get(message.probe_id)
        if incoming is None:
            if message.total_bytes > MAX_PROBE_BYTES or len(self._probes) >= self._limits.open_probes:
                return [_refuse(None, "too_large", "probe too large, or too many of them")]
            incoming = self._probes[message.probe_id] = Incoming(message.total_bytes, now_s=now_s)
            self.held_bytes += message.total_bytes
        try:
            incoming.add(message.offset, payload, now_s=now_s)
        except ProtocolError:
            self._drop_probe(message.probe_id)
            raise
        if not incoming.complete:
            return []
        self._drop_probe(message.probe_id)
        return [
            wire.ProbeReply(
                probe_id=message.probe_id, timed_bytes=incoming.timed_bytes, receive_s=incoming.receive_s
            )
        ]

    def _drop_probe(self, probe_id: int) -> None:
        self.held_bytes -= len(self._probes.pop(probe_id).buffer)


def _refuse(
    request_id: int | None, code: wire.RefusalCode, text: str, load: wire.Load | None = None
) -> wire.Refusal:
    return wire.Refusal(request_id=request_id, code=code, text=text[:1000], load=load)

"""An attacker's connections to a server, and the record of everything that reaches them.

The attacker holds allowed keys. All its request ids lie at `FIRST_ID` and above, those of polite devices below. A
message about an id that its key never asked for was therefore meant for somebody else.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import zmq

from split_model.errors import ProtocolError
from split_model.protocol import messages as wire
from split_model.protocol.keys import KeyPair

FIRST_ID = 1 << 40
#: The server's default of limits.connections_per_device.
CONNECTIONS_PER_KEY = 4


@dataclass(frozen=True)
class Prey:
    """What is known of the server: all of it is known to every allowed device."""

    endpoint: str
    server_key: bytes
    bundle: str
    cut: int
    total_bytes: int

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for those who speak no ZeroMQ."""
        host, port = self.endpoint.removeprefix("tcp://").rsplit(":", 1)
        return host, int(port)


@dataclass
class Door:
    """Everything the attacker has at the server. ``report`` is told of each message that another key was to get.

    ``keys`` are for attacks that a server may well take for use, over `kept` connections. ``reckless`` keys are for
    what uses up a key's handshakes or gets it shut out; without them, ``keys`` are used for the first and
    ``doomed`` for the second. ``doomed`` is the key that is revoked again and again.
    """

    prey: Prey
    keys: Sequence[KeyPair]
    reckless: Sequence[KeyPair]
    doomed: KeyPair
    chance: random.Random
    report: Callable[[str], None]
    heard: Counter[str] = field(default_factory=Counter)
    context: zmq.Context[zmq.Socket[bytes]] = field(default_factory=zmq.Context)
    asked: dict[int, bytes] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(FIRST_ID))
    _kept: list[Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context.set(zmq.MAX_SOCKETS, 4096)

    def new_id(self, keys: KeyPair) -> int:
        """A request id of this key's own."""
        number = next(self.numbers)
        self.asked[number] = keys.public
        return number

    def spare(self) -> KeyPair:
        """A key for what uses up a key's handshakes."""
        return self.chance.choice(self.reckless or self.keys)

    def kept(self, count: int) -> list[Connection]:
        """Connections under the careful keys that stay open from attack to attack; greeted anew.

        ``count`` of them, or as many as the server lets these keys have.
        """
        count = min(count, CONNECTIONS_PER_KEY * len(self.keys))
        while len(self._kept) < count:
            self._kept.append(Connection(self, self.keys[len(self._kept) % len(self.keys)]))
        for one in self._kept[:count]:
            one.hello()
        return self._kept[:count]

    @contextmanager
    def connections(
        self, count: int, *, keys: KeyPair | None = None, names: list[bytes] | None = None
    ) -> Iterator[list[Connection]]:
        """New connections under one key to spare, or under ``keys``; closed at the end."""
        keys = keys or self.spare()
        made: list[Connection] = []
        try:
            for name in names or [None] * count:
                made.append(Connection(self, keys, name=name))  # noqa: PERF401  (those that were made are closed)
            yield made
        finally:
            for one in made:
                one.close()


class Connection:
    """A DEALER under one key. Sends what it is told, never waits, and records all that it receives."""

    def __init__(self, door: Door, keys: KeyPair, *, name: bytes | None = None) -> None:
        self.door, self.keys = door, keys
        self.boot_id = f"attacker-{door.chance.randrange(1 << 30)}"
        self.socket = door.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.reconnect_ivl = 200
        self.socket.curve_serverkey = door.prey.server_key
        self.socket.curve_publickey, self.socket.curve_secretkey = keys.public, keys.secret
        if name is not None:
            self.socket.setsockopt(zmq.ROUTING_ID, name)
        self.socket.connect(door.prey.endpoint)

    def send(self, *frames: bytes) -> bool:
        """Send if there is room; says whether there was."""
        try:
            self.socket.send_multipart(frames, zmq.DONTWAIT, copy=len(frames) < 100)
        except zmq.Again:
            return False
        return True

    def say(self, message: wire.FromDevice, payload: bytes | None = None) -> bool:
        """Send a well-formed message."""
        return self.send(wire.encode(message), *([] if payload is None else [payload]))

    def hello(self) -> None:
        """Greet under this connection's boot id."""
        self.say(wire.Hello(versions=(1,), boot_id=self.boot_id, software="attacker"))

    def request(self, **changes: object) -> wire.Request:
        """A request that fits what the server hosts, but for the changes."""
        prey = self.door.prey
        fields: dict[str, object] = {
            "request_id": self.door.new_id(self.keys),
            "boot_id": self.boot_id,
            "version": 1,
            "bundle": prey.bundle,
            "cut": prey.cut,
            "release": wire.NoRelease(),
            "total_bytes": prey.total_bytes,
            "due_in_s": 2.0,
        }
        return wire.Request(**(fields | changes))  # type: ignore[arg-type]

    def read(self) -> list[wire.FromServer]:
        """Everything that has come; what was meant for another key is reported."""
        messages = []
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return messages
            try:
                message = wire.decode_from_server(memoryview(frames[0]))
            except ProtocolError:
                self.door.heard["unreadable"] += 1
                continue
            self.door.heard[type(message).__name__] += 1
            request_id = getattr(message, "request_id", None)
            if request_id is not None and self.door.asked.get(request_id) != self.keys.public:
                self.door.report(f"{type(message).__name__} about request {request_id}, which this key never made")
            messages.append(message)

    def wait(self, seconds: float) -> list[wire.FromServer]:
        """Read for so long."""
        end_s = time.monotonic() + seconds
        messages = []
        while (left_s := end_s - time.monotonic()) > 0:
            with suppress(zmq.ZMQError):
                self.socket.poll(left_s * 1000)
            messages += self.read()
        return messages

    def close(self) -> None:
        """Read what is there and go."""
        self.read()
        self.socket.close()

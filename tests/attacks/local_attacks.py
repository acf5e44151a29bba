"""Attacks on the local socket of a board by somebody who may open it. Written against the bytes, not our client.

Version 1 of the local API is ZeroMQ over ipc; version 2 is a stream of a hello and length-prefixed messages.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import msgspec
import zmq
from door import FIRST_ID
from server_attacks import UNSEEDED_START

#: The rig's own clients use ids below this.
MINE = FIRST_ID


@dataclass
class LocalDoor:
    """What the attacker knows of the board. ``report`` is told of each answer that somebody else was to get."""

    path: str
    protocol: int
    shape: tuple[int, ...]
    chance: random.Random
    report: Callable[[str], None]
    heard: Counter[str] = field(default_factory=Counter)
    context: zmq.Context[zmq.Socket[bytes]] = field(default_factory=zmq.Context)

    def __post_init__(self) -> None:
        self.context.set(zmq.MAX_SOCKETS, 4096)

    @property
    def values(self) -> bytes:
        """A frame that fits the model."""
        return bytes(4 * _product(self.shape))

    def heard_one(self, message: object) -> None:
        """Count a message, and report the answer to an id that the attacker never uses."""
        kind = str(message[0]) if isinstance(message, list) and message else "unreadable"
        self.heard[f"local {kind}"] += 1
        if kind == "answer" and message[1] < MINE:  # type: ignore[index]
            self.report(f"the local answer to submission {message[1]}, which the attacker never made")  # type: ignore[index]


LocalAttack = Callable[[LocalDoor, float], None]


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


# --- version 2: a stream ---------------------------------------------------------------------------------------


class Stream:
    """One connection of the stream protocol, or of nonsense."""

    def __init__(self, door: LocalDoor, *, hello: bytes = struct.pack("<4sHH", b"EDGE", 2, 2)) -> None:
        self.door = door
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(0.5)
        self.received = b""
        with suppress(OSError):
            self.socket.connect(door.path)
            self.socket.setblocking(False)
            self.send(hello)

    def send(self, data: bytes) -> bool:
        """Send what fits; says whether all did."""
        try:
            return self.socket.send(data) == len(data)
        except OSError:
            return False

    def message(self, header: object, body: bytes = b"", *, promised: int | None = None) -> bool:
        """A message, whose body may be promised longer than it comes."""
        encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
        size = len(body) if promised is None else promised
        return self.send(struct.pack("<IQ", len(encoded), size) + encoded + body)

    def submit(self, number: int, body: bytes | None = None, *, promised: int | None = None) -> bool:
        """A frame that fits the model."""
        header = ["submit", MINE + number, [["float32", list(self.door.shape)]], "attacker"]
        return self.message(header, self.door.values if body is None else body, promised=promised)

    def read(self) -> None:
        """All that has come."""
        with suppress(OSError):
            while data := self.socket.recv(1 << 16):
                self.received += data
        while len(self.received) >= 8 + 12:
            header_bytes, body_bytes = struct.unpack_from("<IQ", self.received, 8)
            end = 8 + 12 + header_bytes + body_bytes
            if len(self.received) < end:
                return
            with suppress(ValueError):
                self.door.heard_one(json.loads(self.received[20 : 20 + header_bytes]))
            self.received = self.received[:8] + self.received[end:]


@contextmanager
def _streams(door: LocalDoor, count: int, **options: bytes) -> Iterator[list[Stream]]:
    made = [Stream(door, **options) for _ in range(count)]
    try:
        yield made
    finally:
        for one in made:
            one.read()
            one.socket.close()


def stream_connections(door: LocalDoor, until_s: float) -> None:
    """Many connections: some silent, some that said half a hello, some gone at once."""
    while time.monotonic() < until_s:
        with _streams(door, 60), _streams(door, 30, hello=b"EDG"), _streams(door, 10, hello=b""):
            time.sleep(0.2)


def stream_promises(door: LocalDoor, until_s: float) -> None:
    """Long headers and bodies that are promised and never come, or byte by byte."""
    with _streams(door, 40) as many:
        for number, one in enumerate(many):
            if number % 4 == 0:
                one.send(struct.pack("<IQ", 0xFFFFFFFF, 1 << 62))
            elif number % 4 == 1:
                one.message(["submit", MINE, [["float32", [1 << 30, 1 << 30]]], "x"], promised=1 << 62)
            elif number % 4 == 2:
                one.submit(number, b"", promised=len(door.values))
            else:
                one.send(struct.pack("<IQ", 64 << 10, 0))
        while time.monotonic() < until_s:
            for one in many:
                one.send(b"\0")
                one.read()
            time.sleep(0.05)


def stream_floods(door: LocalDoor, until_s: float) -> None:
    """Submit without reading an answer, from several connections."""
    with _streams(door, 4) as deaf:
        number = 0
        while time.monotonic() < until_s:
            for one in deaf:
                number += 1
                if not one.submit(number):  # half a message may have gone out: this connection is of no more use
                    time.sleep(0.01)


def stream_nonsense(door: LocalDoor, until_s: float) -> None:
    """Bytes that are no message, and messages that say impossible things."""
    chance = door.chance
    strange: list[object] = [
        b"[" * 60_000,
        b"\xff" * 100,
        ["submit", -1, [], ""],
        ["submit", MINE, [["float32", list(door.shape)]] * 17, ""],
        ["submit", MINE, [["object", [1]]], ""],
        ["subscribe", "x" * 300],
        ["describe", 1, 2, 3],
        {"a": 1},
        None,
    ]
    while time.monotonic() < until_s:
        hello = chance.choice([struct.pack("<4sHH", b"EDGE", 2, 2), chance.randbytes(8), b"\xff" * 64])
        with _streams(door, 4, hello=hello) as some:
            for one in some:
                for _ in range(chance.randrange(1, 6)):
                    one.message(chance.choice(strange), chance.randbytes(chance.randrange(100)))
                one.read()


# --- version 1: ZeroMQ -----------------------------------------------------------------------------------------


@contextmanager
def _dealers(door: LocalDoor, count: int, names: list[bytes] | None = None) -> Iterator[list[zmq.Socket[bytes]]]:
    made = []
    for number in range(count):
        dealer = door.context.socket(zmq.DEALER)
        dealer.linger = 0
        if names:
            dealer.setsockopt(zmq.ROUTING_ID, names[number])
        dealer.connect(f"ipc://{door.path}")
        made.append(dealer)
    try:
        yield made
    finally:
        for dealer in made:
            _read(door, dealer)
            dealer.close()


def _read(door: LocalDoor, dealer: zmq.Socket[bytes]) -> None:
    with suppress(zmq.Again):
        while True:
            frames = dealer.recv_multipart(zmq.DONTWAIT)
            with suppress(msgspec.DecodeError):
                door.heard_one(msgspec.msgpack.decode(frames[0]))


def _send(dealer: zmq.Socket[bytes], *frames: bytes) -> None:
    with suppress(zmq.Again):
        dealer.send_multipart(frames, zmq.DONTWAIT)


def zmq_routing_ids(door: LocalDoor, until_s: float) -> None:
    """Hold ids that the program is about to hand out, then connect until it wants to."""
    first = door.chance.choice([20, door.chance.randrange(4, 2000)])
    names = [b"\0" + (UNSEEDED_START + first + n).to_bytes(4, "big") for n in range(16)]
    describe = msgspec.msgpack.encode(["describe", 1])
    with _dealers(door, len(names), names) as holders:
        for one in holders:
            _send(one, describe)
        while time.monotonic() < until_s:
            with _dealers(door, 20) as plain:
                for one in plain:
                    _send(one, describe)
                time.sleep(0.05)


def zmq_many_frames(door: LocalDoor, until_s: float) -> None:
    """Messages of many frames."""
    with _dealers(door, 1) as (one,):
        while time.monotonic() < until_s:
            _send(one, msgspec.msgpack.encode(["submit", 1, MINE, [], ""]), *[b"x" * 1000] * 10_000)
            _read(door, one)
            time.sleep(0.1)


def zmq_floods(door: LocalDoor, until_s: float) -> None:
    """Submit without reading, and say nonsense."""
    with _dealers(door, 4) as deaf:
        number = 0
        while time.monotonic() < until_s:
            for one in deaf:
                number += 1
                tensors = [["float32", list(door.shape)]]
                _send(one, msgspec.msgpack.encode(["submit", 1, MINE + number, tensors, ""]), door.values)
                _send(one, door.chance.randbytes(50))
            time.sleep(0.002)


ATTACKS: dict[int, dict[str, LocalAttack]] = {
    1: {attack.__name__: attack for attack in (zmq_routing_ids, zmq_many_frames, zmq_floods)},
    2: {
        attack.__name__: attack for attack in (stream_connections, stream_promises, stream_floods, stream_nonsense)
    },
}

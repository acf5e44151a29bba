"""Attacks on a server by somebody who holds an allowed device's key. Each ends by itself after a few seconds."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress

from door import Connection, Door

from split_model.privacy import NoiseSpec
from split_model.protocol import messages as wire
from split_model.protocol.keys import KeyPair

#: Where libzmq's ROUTER begins to number its peers if nobody seeded rand().
UNSEEDED_START = 0x6B8B4567
_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + b"\0" + bytes(31)

Attack = Callable[[Door, float], None]


def _routing_id(number: int) -> bytes:
    return b"\0" + (number & 0xFFFFFFFF).to_bytes(4, "big")


def _filled(one: Connection, wanted: int, **changes: object) -> None:
    """Whole requests, one after another, as many as wanted."""
    for _ in range(wanted):
        request = one.request(**changes)
        one.say(request, bytes(request.total_bytes))


def routing_ids_ahead(door: Door, until_s: float) -> None:
    """Hold ids that the server is about to hand out, then connect until it wants to."""
    chance = door.chance
    start = UNSEEDED_START if chance.random() < 0.8 else chance.randrange(1 << 32)
    first = chance.choice([20, chance.randrange(4, 60), chance.randrange(4, 4000)])
    names = [_routing_id(start + first + number) for number in range(4 if first == 20 else 16)]
    with door.connections(len(names), names=names) as holders:
        for one in holders:
            one.hello()
        while time.monotonic() < until_s:
            with door.connections(10) as plain:
                for one in plain:
                    one.hello()
                plain[-1].wait(0.1)
            for one in holders:
                one.read()


def routing_ids_of_others(door: Door, until_s: float) -> None:
    """Knock under an id that a polite device may have, say nothing, and listen: its link may have gone just now."""
    first = door.chance.choice([door.chance.randrange(2, 12), door.chance.randrange(2, 2000)])
    name = _routing_id(UNSEEDED_START + first)
    knocking: deque[Connection] = deque()
    while time.monotonic() < until_s:
        knocking.append(Connection(door, door.spare(), name=name))
        time.sleep(0.01)
        for one in knocking:
            one.read()
        if len(knocking) > 8:
            knocking.popleft().close()
    for one in knocking:
        one.close()


def short_due_times(door: Door, until_s: float) -> None:
    """Keep every place of every connection taken by requests that claim to be urgent."""
    greedy = door.kept(8)
    for one in greedy:
        one.wait(0.02)
        _filled(one, 8, due_in_s=0.5)
    while time.monotonic() < until_s:
        for one in greedy:
            ended = sum(isinstance(m, (wire.Answer, wire.Refusal)) for m in one.read())
            _filled(one, ended, due_in_s=door.chance.choice([0.0, 0.005, 0.05, 0.5]))
        time.sleep(0.001)


def cancels(door: Door, until_s: float) -> None:
    """Ask and take it back."""
    pair = door.kept(2)
    while time.monotonic() < until_s:
        for one in pair:
            request = one.request()
            one.say(request, bytes(request.total_bytes))
            one.say(wire.Cancel(request_id=request.request_id))
            one.read()


def half_messages(door: Door, until_s: float) -> None:
    """Begin requests and never end them, and begin greetings and never end them."""
    with ExitStack() as stack:
        some = door.kept(8)
        for one in some:
            for _ in range(8):
                one.say(one.request(), b"x")
        for _ in range(20):
            with suppress(OSError):
                raw = stack.enter_context(socket.create_connection(door.prey.address, timeout=0.5))
                raw.sendall(_GREETING[: door.chance.randrange(1, len(_GREETING) + 1)])
        while time.monotonic() < until_s:
            for one in some:
                one.wait(0.05)


def handshake_storm(door: Door, until_s: float) -> None:
    """Connect and go, as often as it can be done."""
    while time.monotonic() < until_s:
        with door.connections(8) as some:
            some[-1].hello()
            some[-1].wait(0.02)


def hello_storm(door: Door, until_s: float) -> None:
    """Greet without end, under ever new boot ids."""
    pair = door.kept(2)
    while time.monotonic() < until_s:
        for one in pair:
            one.say(wire.Hello(versions=(1,), boot_id=os.urandom(16).hex(), software="s" * 900))
            one.read()


def huge_chunks(door: Door, until_s: float) -> None:
    """Chunks over the limit, and the largest that are allowed at offsets that are not."""
    while time.monotonic() < until_s:
        with door.connections(1) as (one,):
            one.hello()
            for size in (1 << 20, wire.MAX_CHUNK_BYTES + 1, wire.MAX_CHUNK_BYTES):
                one.send(wire.encode(one.request()), bytes(size))
                one.send(wire.encode(one.request(total_bytes=1 << 24)), bytes(size))
                number = door.new_id(one.keys)
                one.say(wire.Chunk(request_id=number, offset=(1 << 39)), bytes(size))
            one.wait(0.2)


def many_frames(door: Door, until_s: float, keys: KeyPair | None = None) -> None:
    """Messages of very many frames, 13 at most. They get the key shut out, so an only key is not used for them."""
    keys = keys or (door.spare() if door.reckless else door.doomed)
    with door.connections(1, keys=keys) as (one,):
        one.hello()
        one.wait(0.2)
        for _ in range(13):
            if time.monotonic() >= until_s:
                return
            one.send(*[b""] * door.chance.choice([3, 1000, 100_000, 100_000]))
            one.read()


def after_the_revocation(door: Door, until_s: float) -> None:
    """The same with the key that is taken off the allow-list again and again, and requests under it."""
    many_frames(door, until_s, keys=door.doomed)
    with door.connections(2, keys=door.doomed) as pair:
        for one in pair:
            one.hello()
        while time.monotonic() < until_s:
            for one in pair:
                _filled(one, 4)
                one.wait(0.01)


def probes(door: Door, until_s: float) -> None:
    """Pings without end, and large probes that are never whole."""
    pair = door.kept(2)
    for one in pair:
        for number in range(8):
            one.say(wire.Probe(probe_id=number, offset=0, total_bytes=256 << 10), bytes(16 << 10))
    number = 100
    while time.monotonic() < until_s:
        for one in pair:
            number += 1
            one.say(wire.Probe(probe_id=number, offset=0, total_bytes=0), b"")
            one.read()


def malformed(door: Door, until_s: float) -> None:
    """Bytes that are no message, nested deeply, cut short, or of the wrong kind."""
    chance = door.chance
    pair = door.kept(2)
    while time.monotonic() < until_s:
        for one in pair:
            header = bytearray(wire.encode(one.request()))
            kind = chance.randrange(5)
            if kind == 0:
                header = bytearray(chance.randbytes(chance.randrange(1, 2000)))
            elif kind == 1:
                header = bytearray(b"\x91" * 60_000)
            elif kind == 2:
                del header[chance.randrange(1, len(header)) :]
            elif kind == 3:
                header = bytearray(wire.encode(wire.Chunk(request_id=door.new_id(one.keys), offset=9)))
            one.send(bytes(header), *[b"x" * chance.randrange(100)] * chance.randrange(2))
            one.read()


def deaf(door: Door, until_s: float) -> None:
    """Ask and never read a reply, until the server's buffers are full of them."""
    with door.connections(2) as pair:
        for one in pair:
            one.socket.rcvhwm = 1
            one.hello()
        number = 0
        while time.monotonic() < until_s:
            for one in pair:
                number += 1
                one.say(wire.Probe(probe_id=number, offset=0, total_bytes=0), b"")
            time.sleep(0.0005)


def made_up_plans(door: Door, until_s: float) -> None:
    """A new epsilon in every request, so that the server has to make a new plan."""
    pair = door.kept(2)
    while time.monotonic() < until_s:
        for one in pair:
            spec = NoiseSpec(epsilon=door.chance.uniform(1.0, 100.0), bits=8)
            release = wire.Noise(spec=spec, digest="0" * 16)
            size = door.prey.total_bytes // 4
            one.say(one.request(release=release, total_bytes=size), bytes(size))
            one.read()


def silent_connections(door: Door, until_s: float) -> None:
    """Connections that say nothing."""
    with door.connections(24) as silent:
        while time.monotonic() < until_s:
            silent[0].wait(0.2)


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        routing_ids_ahead,
        routing_ids_of_others,
        short_due_times,
        cancels,
        half_messages,
        handshake_storm,
        hello_storm,
        huge_chunks,
        many_frames,
        after_the_revocation,
        probes,
        malformed,
        deaf,
        made_up_plans,
        silent_connections,
    )
}

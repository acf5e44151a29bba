"""Cuts a byte stream of the local API into a hello and messages. No I/O, standard library only.

Both sides begin with a hello of 8 bytes: ``EDGE``, then the lowest and the highest protocol version that they
speak, each as a little-endian uint16. This hello stays the same in every version. Then come messages: the length of
the header (uint32) and of the body (uint64), both little-endian, the header (JSON), and the body (raw values).

A length is checked before its bytes are read, and memory for a body is allocated only after the owner accepted it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from split_model.errors import ProtocolError

#: The lowest and the highest protocol version that this package speaks. Version 1 was ZeroMQ.
VERSIONS = (2, 2)
#: The service's runtime folder; systemd makes it when the service starts.
RUNTIME_FOLDER = Path("/run/edge-runtime")
FRAMES_PATH = "/run/edge-runtime/frames.sock"
ANSWERS_PATH = "/run/edge-runtime/answers.sock"
#: Maximum bytes of a client's header.
MAX_HEADER_BYTES = 64 << 10

_HELLO = struct.Struct("<4sHH")
_PREFIX = struct.Struct("<IQ")
_MAGIC = b"EDGE"
#: The first byte of a ZeroMQ greeting.
_ZEROMQ = 0xFF
_SKIP_BYTES = 64 << 10

Bytes: TypeAlias = "bytes | bytearray | memoryview"


class VersionError(ProtocolError):
    """The peer speaks the protocol, but no version in common with this side."""


@dataclass(frozen=True)
class Hello:
    """The protocol versions that the peer speaks, and the highest that both sides do."""

    versions: tuple[int, int]
    agreed: int


@dataclass(frozen=True)
class Header:
    """A message began. `Incoming.accept` or `Incoming.skip` its body before anything else."""

    data: bytes
    body_bytes: int


@dataclass(frozen=True)
class Body:
    """The accepted body of the last header is complete."""

    data: memoryview


@dataclass(frozen=True)
class Skipped:
    """The body of the last header was skipped."""


Event: TypeAlias = "Hello | Header | Body | Skipped"


def hello(versions: tuple[int, int] = VERSIONS) -> bytes:
    """The first bytes that a side sends."""
    return _HELLO.pack(_MAGIC, *versions)


def framed(header: bytes, body: Sequence[Bytes] = ()) -> list[Bytes]:
    """Encode a message as buffers to send in order; the body's parts must be bytes."""
    return [_PREFIX.pack(len(header), sum(len(part) for part in body)) + header, *body]


class Incoming:
    """The reading half of a connection.

    Read at most ``len(room())`` bytes into `room`, then call `filled` with their number.
    """

    def __init__(self, *, max_header_bytes: int = MAX_HEADER_BYTES, versions: tuple[int, int] = VERSIONS) -> None:
        self._max_header_bytes = max_header_bytes
        self._versions = versions
        self._stage: Literal["hello", "prefix", "header", "decide", "body", "skip"] = "hello"
        self._body_bytes = 0
        self._skip_bytes = 0
        self._buffer = bytearray(_HELLO.size)
        self._filled = 0

    @property
    def between(self) -> bool:
        """Whether no message has begun."""
        return self._stage == "prefix" and self._filled == 0

    @property
    def deciding(self) -> bool:
        """Whether a header's body waits for `accept` or `skip`."""
        return self._stage == "decide"

    def room(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        assert not self.deciding, "accept or skip the body first"
        return memoryview(self._buffer)[self._filled :]

    def filled(self, count: int) -> Event | None:
        """Note that ``count`` bytes were read into `room`.

        Returns:
            The event that they complete, None for none.

        Raises:
            VersionError: Both sides have no version in common.
            ProtocolError: The first bytes are not a hello, or a header is empty or too long.

        """
        self._filled += count
        if self._stage == "skip":
            self._skip_bytes -= count
            return self._skipped()
        if self._filled < len(self._buffer):
            return None
        done = self._buffer
        if self._stage == "hello":
            self._begin("prefix", _PREFIX.size)
            return agree(bytes(done), self._versions)
        if self._stage == "prefix":
            header_bytes, self._body_bytes = _PREFIX.unpack(done)
            if not 0 < header_bytes <= self._max_header_bytes:
                raise ProtocolError(f"a header of {header_bytes} bytes, 1 to {self._max_header_bytes} are taken")
            self._begin("header", header_bytes)
            return None
        if self._stage == "header":
            self._begin("decide", 0)
            return Header(bytes(done), self._body_bytes)
        self._begin("prefix", _PREFIX.size)
        return Body(memoryview(done))

    def accept(self) -> Body | None:
        """Allocate memory for the announced body; returns the body if it is empty."""
        assert self.deciding
        if self._body_bytes == 0:
            self._begin("prefix", _PREFIX.size)
            return Body(memoryview(b""))
        self._begin("body", self._body_bytes)
        return None

    def skip(self) -> Skipped | None:
        """Skip the announced body; returns `Skipped` if it is empty."""
        assert self.deciding
        self._skip_bytes = self._body_bytes
        self._stage = "skip"
        return self._skipped()

    def _skipped(self) -> Skipped | None:
        if self._skip_bytes == 0:
            self._begin("prefix", _PREFIX.size)
            return Skipped()
        self._begin("skip", min(self._skip_bytes, _SKIP_BYTES))
        return None

    def _begin(self, stage: Literal["prefix", "header", "decide", "body", "skip"], size: int) -> None:
        self._stage = stage
        self._filled = 0
        if stage != "skip" or len(self._buffer) != size:
            self._buffer = bytearray(size)


def agree(data: bytes, versions: tuple[int, int] = VERSIONS) -> Hello:
    """Read the peer's hello of 8 bytes. Raises as `Incoming.filled` does."""
    magic, lowest, highest = _HELLO.unpack(data)
    if data[0] == _ZEROMQ:
        raise ProtocolError(
            "it speaks ZeroMQ, the protocol of an older edge_runtime", remedy="upgrade the older side"
        )
    if magic != _MAGIC:
        raise ProtocolError(f"it begins with {data!r}, not with the hello of docs/local-socket.md")
    agreed = min(highest, versions[1])
    if agreed < max(lowest, versions[0]):
        theirs, ours = (f"{low} to {high}" for low, high in ((lowest, highest), versions))
        raise VersionError(
            f"it speaks protocol versions {theirs}, this side {ours}", remedy="upgrade the older side"
        )
    return Hello((lowest, highest), agreed)

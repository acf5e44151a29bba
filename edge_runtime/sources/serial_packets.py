"""Tensors as packets on a serial line: framed, numbered, checked. No I/O. The other end: docs/serial-protocol.md.

A packet is the bytes between two zero bytes, decoded from COBS::

    version u8 = 1 | dtype u8 | rank u8 | 0 u8 | sequence u32 | dimensions rank x u16 | values | crc u32

all little-endian; the CRC is that of zlib over everything before it. COBS removes every zero from a packet for one
extra byte in 254. So after lost, added or changed bytes the next zero starts a new packet: noise damages only the
packets that it hits, and no time-out is needed. Of damaged packets, a CRC of 32 bits accepts one in four thousand
million; 16 bits would accept one in 65536.
"""

from __future__ import annotations

import itertools
import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from split_model.arrays import Array

VERSION = 1
#: The codes of the element types.
DTYPES = ("float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool")
MAX_RANK = 6

_HEADER = struct.Struct("<BBBBI")
_CRC = struct.Struct("<I")
_LEAST_BYTES = _HEADER.size + _CRC.size
_SEQUENCES = 1 << 32


@dataclass(frozen=True)
class Packet:
    """An intact packet: its tensor, or its sender's mistake."""

    sequence: int
    tensor: Array | None
    error: str = ""


class Decoder:
    """Decodes packets from a stream of bytes. Holds at most about ``max_packet_bytes``.

    ``packets``: number of intact packets. ``damaged``: pieces between zeros that are not packets. ``missing``:
    skipped sequence numbers, those of damaged packets included. ``restarts``: times that the numbers went back.
    """

    def __init__(self, *, max_packet_bytes: int) -> None:
        self.packets = 0
        self.damaged = 0
        self.missing = 0
        self.restarts = 0
        self._limit = max_packet_bytes + max_packet_bytes // 254 + 2
        self._piece = bytearray()
        self._too_long = False
        self._sequence: int | None = None

    def feed(self, data: bytes) -> list[Packet]:
        """Add bytes from the line; returns the packets that they complete."""
        first, *others = data.split(b"\0")
        self._add(first)
        found = []
        for piece in others:
            if (packet := self._end()) is not None:
                found.append(packet)
            self._add(piece)
        return found

    def reset(self) -> None:
        """Drop an incomplete packet, as the line was cut."""
        self.damaged += bool(self._piece) or self._too_long
        self._piece, self._too_long = bytearray(), False

    def _add(self, piece: bytes) -> None:
        self._piece += piece
        if len(self._piece) > self._limit:
            self._piece, self._too_long = bytearray(), True

    def _end(self) -> Packet | None:
        """Handle a zero byte."""
        piece, too_long = self._piece, self._too_long
        self._piece, self._too_long = bytearray(), False
        if not piece and not too_long:
            return None
        packet = None if too_long else read_packet(piece)
        if packet is None:
            self.damaged += 1
            return None
        self.packets += 1
        self._count(packet.sequence)
        return packet

    def _count(self, sequence: int) -> None:
        last, self._sequence = self._sequence, sequence
        if last is None:
            return
        ahead = (sequence - last - 1) % _SEQUENCES
        if ahead < _SEQUENCES // 2:
            self.missing += ahead
        else:
            self.restarts += 1


def read_packet(piece: bytearray) -> Packet | None:
    """Decode the bytes between two zeros; None if damaged. Overwrites ``piece``."""
    plain = unstuff(piece)
    if plain is None or len(plain) < _LEAST_BYTES:
        return None
    body = memoryview(plain)[: -_CRC.size]
    if zlib.crc32(body) != _CRC.unpack_from(plain, len(body))[0]:
        return None
    version, dtype, rank, _, sequence = _HEADER.unpack_from(body)
    if version != VERSION:
        return Packet(sequence, None, f"packet of version {version}, this program reads {VERSION}")
    values_at = _HEADER.size + 2 * rank
    if dtype >= len(DTYPES) or rank > MAX_RANK or values_at > len(body):
        return Packet(sequence, None, f"dtype {dtype}, rank {rank} in {len(body)} bytes; see the protocol")
    shape = struct.unpack_from(f"<{rank}H", body, _HEADER.size)
    kind = np.dtype(DTYPES[dtype]).newbyteorder("<")
    if len(body) - values_at != math.prod(shape) * kind.itemsize:
        held = f"{kind.name}{list(shape)} announced, {len(body) - values_at} bytes of values came"
        return Packet(sequence, None, held)
    tensor = np.frombuffer(body, kind, offset=values_at).reshape(shape)
    return Packet(sequence, tensor.astype(kind.newbyteorder("="), copy=False))


def write_packet(tensor: Array, sequence: int) -> bytes:
    """Encode a packet with its zeros, as a microcontroller would send it."""
    if tensor.dtype.name not in DTYPES or tensor.ndim > MAX_RANK or max(tensor.shape, default=0) >= 1 << 16:
        raise ValueError(f"{tensor.dtype.name}{list(tensor.shape)} does not go into a packet")
    body = _HEADER.pack(VERSION, DTYPES.index(tensor.dtype.name), tensor.ndim, 0, sequence % _SEQUENCES)
    body += struct.pack(f"<{tensor.ndim}H", *tensor.shape)
    body += np.ascontiguousarray(tensor).astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes()
    return b"\0" + stuff(body + _CRC.pack(zlib.crc32(body))) + b"\0"


def stuff(data: bytes) -> bytes:
    """Encode by COBS: replaces each zero of ``data`` by the distance to the next one."""
    stuffed = bytearray()
    for piece in data.split(b"\0"):
        start = 0
        while len(piece) - start >= 254:
            stuffed.append(255)
            stuffed += piece[start : start + 254]
            start += 254
        stuffed.append(len(piece) - start + 1)
        stuffed += piece[start:]
    return bytes(stuffed)


def unstuff(piece: bytearray) -> bytearray | None:
    """Decode COBS, in place if possible; None if the distances do not end at the end of the piece.

    The loop takes one step for every zero of the data and for every 254 bytes, not for every byte.
    """
    at, end = 0, len(piece)
    left_out = [0]
    while at < end:
        distance = piece[at]
        piece[at] = 0
        at += distance
        if distance == 255 and at < end:
            left_out.append(at)
    if at != end:
        return None
    if len(left_out) == 1:
        del piece[0]
        return piece
    left_out.append(end)
    plain = bytearray()
    for this, following in itertools.pairwise(left_out):
        plain += piece[this + 1 : following]
    return plain

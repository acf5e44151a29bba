"""Reads the true size of an AVIF file's pictures from the headers of its AV1 streams, as the decoder does.

The size in the file's `ispe` box is for programs that do not decode, and may be false. This module reads the items
of a still picture and the first sample of each track of a moving one. It refuses everything else: the decoder could
find a stream that this module does not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_MAX_META_BYTES = 4 << 20
_MAX_BOXES = 4096
_SEQUENCE_HEADER = 1
_CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


class UnreadableSizeError(ValueError):
    """The file's boxes or streams are not of a known kind."""


def coded_pixels(path: Path) -> int:
    """Upper bound of the pixels decoded for the first picture of a file, its alpha stream included.

    A frame of a moving picture's stream may be as large as its header's bits allow.

    Raises:
        UnreadableSizeError: The content is of an unknown kind, or there is no stream.
        OSError: The file cannot be read.

    """
    with path.open("rb") as file:
        length = file.seek(0, 2)
        left = 2 * length  # streams may share bytes, as a moving picture and its cover do, but not without limit
        pixels = {b"meta": 0, b"moov": 0}  # the decoder uses one of the two
        for kind, at, end in _top_boxes(file, length):
            if kind not in pixels:
                continue
            if end - at > _MAX_META_BYTES:
                raise UnreadableSizeError(f"a {kind.decode()} box of over {_MAX_META_BYTES >> 20} MiB")
            body = _read(file, at, end - at)
            for stream in _items(file, body[4:]) if kind == b"meta" else _samples(file, body):
                left -= len(stream)
                if left < 0:
                    raise UnreadableSizeError("streams overlap")
                pixels[kind] += _largest(stream)
    if not any(pixels.values()):
        raise UnreadableSizeError("no AV1 stream")
    return max(pixels.values())


def _top_boxes(file: BinaryIO, length: int) -> Iterator[tuple[bytes, int, int]]:
    at = 0
    for _ in range(_MAX_BOXES):
        if at >= length:
            return
        kind, start, end = _box(_read(file, at, min(16, length - at)), at, length)
        yield kind, start, end
        at = end
    raise UnreadableSizeError("too many boxes")


def _box(head: bytes, at: int, length: int) -> tuple[bytes, int, int]:
    """Kind, body start and end of the box that begins here."""
    if len(head) < 8:
        raise UnreadableSizeError("cut short")
    size, kind = struct.unpack(">I4s", head[:8])
    start = at + 8
    if size == 1:
        if len(head) < 16:
            raise UnreadableSizeError("cut short")
        size, start = struct.unpack(">Q", head[8:16])[0], at + 16
    end = length if size == 0 else at + size
    if not start <= end <= length:
        raise UnreadableSizeError("a box outside of the file")
    return kind, start, end


def _boxes(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(body):
        kind, start, end = _box(body[at : at + 16], at, len(body))
        yield kind, body[start:end]
        at = end


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    length = file.seek(0, 2)
    if at + size > length:
        raise UnreadableSizeError("a part outside of the file")
    file.seek(at)
    found = file.read(size)
    if len(found) < size:
        raise UnreadableSizeError("cut short")
    return found


class _Fields:
    """Reads big-endian numbers in order."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def take(self, size: int) -> int:
        if self._at + size > len(self._body):
            raise UnreadableSizeError("cut short")
        self._at += size
        return int.from_bytes(self._body[self._at - size : self._at], "big")


def _items(file: BinaryIO, meta: bytes) -> Iterator[bytes]:
    boxes: dict[bytes, bytes] = {}
    for kind, body in _boxes(meta):
        if kind in (b"iloc", b"iinf", b"idat") and kind in boxes:
            raise UnreadableSizeError(f"two {kind.decode()} boxes")
        boxes[kind] = body
    wanted = set(_av1_items(boxes.get(b"iinf", b"")))
    for number, from_idat, extents in _locations(boxes.get(b"iloc", b"")):
        if number in wanted:
            idat = boxes.get(b"idat", b"")
            yield b"".join(
                idat[at : at + size or None] if from_idat else _read(file, at, size) for at, size in extents
            )


def _av1_items(iinf: bytes) -> Iterator[int]:
    if not iinf:
        return
    for kind, infe in _boxes(iinf[6 if iinf[0] == 0 else 8 :]):
        if kind != b"infe" or not infe or infe[0] not in (2, 3):
            raise UnreadableSizeError("an item of an unknown kind")
        fields = _Fields(infe[4:])
        number = fields.take(2 if infe[0] == 2 else 4)
        fields.take(2)
        if fields.take(4).to_bytes(4, "big") == b"av01":
            yield number


def _locations(iloc: bytes) -> Iterator[tuple[int, bool, list[tuple[int, int]]]]:
    """For each item: its number, whether it is in the idat box, and the places and sizes of its parts."""
    if not iloc:
        return
    version, fields = iloc[0], _Fields(iloc[4:])
    sizes = fields.take(2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    for _ in range(fields.take(2 if version < 2 else 4)):
        number = fields.take(2 if version < 2 else 4)
        method = fields.take(2) & 15 if version else 0
        reference = fields.take(2)
        if method > 1 or reference:
            raise UnreadableSizeError("an item in another one or in another file")
        base = fields.take(base_size)
        extents = []
        for _ in range(fields.take(2)):
            fields.take(index_size if version else 0)
            extents.append((base + fields.take(offset_size), fields.take(length_size)))
        if any(size == 0 for _, size in extents):
            raise UnreadableSizeError("an item without a length")
        yield number, method == 1, extents


def _samples(file: BinaryIO, moov: bytes) -> Iterator[bytes]:
    """The first sample of each track."""
    found: dict[bytes, bytes] = {}
    for kind, body in _boxes(moov):
        if kind in _CONTAINERS:
            yield from _samples(file, body)
        found[kind] = body
    if b"stsd" not in found or found[b"stsd"][12:16] != b"av01":
        return
    sizes, places = _Fields(found.get(b"stsz", b"")[4:]), _Fields(found.get(b"stco", found.get(b"co64", b""))[4:])
    size, count = sizes.take(4), sizes.take(4)
    size = size or (sizes.take(4) if count else 0)
    if places.take(4):
        yield _read(file, places.take(4 if b"stco" in found else 8), size)


def _largest(stream: bytes) -> int:
    """Pixels of the largest sequence header of a stream."""
    sizes = []
    at = 0
    while at < len(stream):
        head = stream[at]
        at += 2 if head & 4 else 1
        if head & 0x80 or not head & 2:  # without a length it goes on to the end, as in the decoder
            raise UnreadableSizeError("an OBU without a length")
        size, at = _leb128(stream, at)
        if at + size > len(stream):
            raise UnreadableSizeError("an OBU that does not end")
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            sizes.append(_sequence_header(stream[at : at + size]))
        at += size
    if not sizes:
        raise UnreadableSizeError("a stream without a sequence header")
    return max(sizes)


def _leb128(stream: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(8):
        if at + place >= len(stream):
            break
        byte = stream[at + place]
        value |= (byte & 0x7F) << 7 * place
        if not byte & 0x80:
            return value, at + place + 1
    raise UnreadableSizeError("a length that does not end")


class _Bits:
    def __init__(self, body: bytes) -> None:
        self._value = int.from_bytes(body, "big")
        self._left = 8 * len(body)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise UnreadableSizeError("a sequence header that is cut short")
        return self._value >> self._left & ((1 << count) - 1)

    def take_uvlc(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros) if zeros < 32 else (1 << 32) - 1


def _sequence_header(body: bytes) -> int:
    """Pixels of a frame (AV1, section 5.5); the maximum if frames state their own size."""
    bits = _Bits(body[:512])
    bits.take(4)  # profile, still picture
    reduced = bits.take(1)
    if reduced:
        bits.take(5)
    else:
        _operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(width_bits) + 1, bits.take(height_bits) + 1
    return width * height if reduced else 1 << width_bits + height_bits


def _operating_points(bits: _Bits) -> None:
    has_model, delay_bits = 0, 0
    if bits.take(1):  # timing
        bits.take(64)
        if bits.take(1):
            bits.take_uvlc()
        has_model = bits.take(1)
        if has_model:
            delay_bits = bits.take(5) + 1
            bits.take(32 + 10)
    has_delays = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if has_model and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if has_delays and bits.take(1):
            bits.take(4)

"""Writes and reads grey PNG pictures of class numbers with zlib only, so a board needs no Pillow."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model.errors import BadInputError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_PIXELS = 64 << 20


def write_png(codes: NDArray[Any]) -> bytes:
    """Write integers [height, width] of 0 to 65535 as a grey PNG of 8 bits, or 16 if needed."""
    wide = codes.size > 0 and int(codes.max()) > 255
    rows = np.ascontiguousarray(codes, ">u2" if wide else "u1")
    height, width = rows.shape
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16 if wide else 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 6)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in parts)


def read_png(data: bytes) -> NDArray[np.uint16]:
    """Read a picture of `write_png`; `BadInputError` for others."""
    try:
        return _read(data)
    except (ValueError, struct.error, zlib.error) as error:
        raise BadInputError(f"not a map of a record ({error})") from None


def _read(data: bytes) -> NDArray[np.uint16]:
    if data[:8] != _SIGNATURE:
        raise ValueError("no PNG")
    width, height, bits, colour, _, method, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    if (colour, method, interlaced) != (0, 0, 0) or bits not in (8, 16) or width * height > _MAX_PIXELS:
        raise ValueError("another kind of PNG")
    at, packed = 33, b""
    while data[at + 4 : at + 8] == b"IDAT":
        (size,) = struct.unpack(">I", data[at : at + 4])
        packed += data[at + 8 : at + 8 + size]
        at += size + 12
    row = 1 + width * bits // 8
    raw = np.frombuffer(zlib.decompressobj().decompress(packed, height * row), np.uint8).reshape(height, row)
    if raw[:, 0].any():
        raise ValueError("filtered rows")
    values = np.ascontiguousarray(raw[:, 1:]).view("u1" if bits == 8 else ">u2")
    return values.reshape(height, width).astype(np.uint16)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

"""Packs integers of 4 to 8 bits into bytes and back, with few whole-array operations.

The length is independent of the content. Values are laid out in planes, not interleaved: with g values sharing c =
g·bits/8 bytes, the first c of g equal stretches of the array are carriers, one value a byte in the low bits; the
bits of the other stretches fill the carriers' high bits. So every operation runs over contiguous bytes.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from split_model.errors import ProtocolError

Bytes = NDArray[np.uint8]


def planes(values: int, bits: int) -> tuple[int, int, int]:
    """(planes, carriers, bytes of a plane) for ``values`` integers of ``bits`` bits."""
    group = 8 // math.gcd(8, bits)
    return group, group * bits // 8, -(-values // group)


def packed_bytes(values: int, bits: int) -> int:
    """Bytes that ``values`` integers of ``bits`` bits take."""
    _, carriers, width = planes(values, bits)
    return carriers * width


def padded_values(values: int, bits: int) -> int:
    """``values`` rounded up to whole planes: the size of the array `pack` takes."""
    group, _, width = planes(values, bits)
    return group * width


@cache
def _runs(bits: int) -> tuple[tuple[int, int, int, int, int], ...]:
    """Where the bits of the other values go: (value, its first bit, carrier, first bit there, bits)."""
    group, carriers, _ = planes(0, bits)
    spare = 8 - bits
    runs = []
    at = 0
    while at < (group - carriers) * bits:
        value, value_bit = divmod(at, bits)
        carrier, carrier_bit = divmod(at, spare)
        length = min(bits - value_bit, spare - carrier_bit)
        runs.append((carriers + value, value_bit, carrier, bits + carrier_bit, length))
        at += length
    return tuple(runs)


def pack(values: Bytes, bits: int) -> Bytes:
    """Pack uint8 [padded_values], each below 2^bits, to uint8 [packed_bytes], a new array unless bits is 8."""
    if bits == 8:
        return values
    group, carriers, width = planes(values.size, bits)
    plane = values.reshape(group, width)
    packed = plane[:carriers].copy()
    piece = np.empty(width, np.uint8)
    for value, value_bit, carrier, carrier_bit, length in _runs(bits):
        np.right_shift(plane[value], value_bit, out=piece)
        np.bitwise_and(piece, (1 << length) - 1, out=piece)
        np.left_shift(piece, carrier_bit, out=piece)
        np.bitwise_or(packed[carrier], piece, out=packed[carrier])
    flat: Bytes = packed.reshape(-1)
    return flat


def unpack(packed: Bytes, values: int, bits: int) -> Bytes:
    """Unpack uint8 [packed_bytes(values)] to uint8 [values]; raises `ProtocolError` on another length."""
    if packed.size != packed_bytes(values, bits):
        raise ProtocolError(
            f"features of {packed.size} bytes where the plan has {packed_bytes(values, bits)}",
            remedy="make the same plan",
        )
    if bits == 8:
        return packed
    group, carriers, width = planes(values, bits)
    unpacked = np.empty((group, width), np.uint8)
    source = packed.reshape(carriers, width)
    np.bitwise_and(source, (1 << bits) - 1, out=unpacked[:carriers])
    for value, value_bit, carrier, carrier_bit, length in _runs(bits):
        piece = (
            source[carrier] >> carrier_bit
            if value_bit
            else np.right_shift(source[carrier], carrier_bit, out=unpacked[value])
        )
        if carrier_bit + length < 8:
            np.bitwise_and(piece, (1 << length) - 1, out=piece)
        if value_bit:  # its lower bits are there already
            unpacked[value] |= piece << value_bit
    return unpacked.reshape(-1)[:values]

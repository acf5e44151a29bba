"""The memory layout for passes over a cut's values: long rows of whole channels, in cache-sized pieces.

NHWC tensors have the channel last, and a pass that broadcasts a vector of C channels has an inner loop of only C
values. So the parameters are tiled to rows of about two thousand values, and the work is done piece by piece: a few
passes over a piece stay in a small cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array
from split_model.bundle.manifest import TensorSpec

_ROW_VALUES = 2048
_PIECE_VALUES = 32768


class Piece(msgspec.Struct, frozen=True):
    """Values start..stop of a flattened tensor, seen as [rows, width]; start and width are multiples of C."""

    start: int
    stop: int
    rows: int
    width: int


class TensorLayout(msgspec.Struct, frozen=True):
    """One tensor: its first value in the payload, its pieces, and the length of a tiled parameter row."""

    first: int
    size: int
    channels: int
    row: int
    pieces: tuple[Piece, ...]

    def tiled(self, per_channel: Sequence[float] | NDArray[np.float64], dtype: type[np.generic]) -> Array:
        """``per_channel`` [C] repeated to [row]."""
        return np.tile(np.asarray(per_channel, dtype), self.row // self.channels)


def channels_of(tensor: TensorSpec) -> int:
    """Length of the last axis; 1 for a scalar."""
    return tensor.shape[-1] if tensor.shape else 1


def lay_out(tensors: Sequence[TensorSpec]) -> tuple[TensorLayout, ...]:
    """The layout of each tensor, in the order of the payload."""
    layouts = []
    first = 0
    for tensor in tensors:
        channels = channels_of(tensor)
        row = min(tensor.size, channels * max(1, _ROW_VALUES // channels))
        layouts.append(
            TensorLayout(
                first=first, size=tensor.size, channels=channels, row=row, pieces=_pieces(tensor.size, row)
            )
        )
        first += tensor.size
    return tuple(layouts)


def piece_values(layouts: Sequence[TensorLayout]) -> int:
    """Size of the largest piece, which a scratch array must hold."""
    return max(piece.stop - piece.start for layout in layouts for piece in layout.pieces)


def _pieces(size: int, row: int) -> tuple[Piece, ...]:
    step = row * max(1, _PIECE_VALUES // row)
    whole = size - size % row
    pieces = [
        Piece(start=start, stop=min(start + step, whole), rows=(min(start + step, whole) - start) // row, width=row)
        for start in range(0, whole, step)
    ]
    if whole < size:
        pieces.append(Piece(start=whole, stop=size, rows=1, width=size - whole))
    return tuple(pieces)

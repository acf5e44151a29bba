"""Samples exact discrete Laplace noise from fresh entropy, by inversion of a CDF with proven floors.

A uniform number U in [0, 1) is revealed bit by bit until it is clear between which two values of the
CDF it lies. Its first 12 bits index a small table that stays in cache; a cell that lies inside one
outcome's interval decides (all but about 3 %). 4 more bits index a table of 2^16 cells (all but 0.3 %).
44 more bits are compared with the floors of 2^60·F; where the 60-bit prefix equals one (about once in
2^52 values), an unbounded loop in Python integers decides. The probability of every outcome is exact.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from split_model.errors import SplitModelError
from split_model.privacy.grid import Grid
from split_model.privacy.layout import TensorLayout

Entropy = Callable[[int], bytes]

MAX_CLASSES = 16  # 4 bits: class and first bits fill a uint16, class and prefix a uint64
FIRST_BITS = 12
SECOND_BITS = 16
PREFIX_BITS = 60
UNDECIDED = -(1 << 15)
_LOOP_BITS = 64


class LaplaceSampler:
    """Discrete Laplace noise on up to 16 grids, each clamped to ± its ``bound``; 136 KiB of tables a grid.

    ``entropy(n)`` returns n fresh bytes from a source fit for cryptography. Not for use from two threads.
    """

    def __init__(self, grids: Sequence[Grid], *, entropy: Entropy) -> None:
        if not 0 < len(grids) <= MAX_CLASSES:
            raise ValueError(f"{len(grids)} classes of noise; 1 to {MAX_CLASSES} fit")
        self._grids = tuple(grids)
        self._entropy = entropy
        self._block = memoryview(b"")
        floors = [grid.floors(PREFIX_BITS) for grid in grids]
        bounds = [grid.bound for grid in grids]
        self.first = np.concatenate([_table(*pair, FIRST_BITS) for pair in zip(floors, bounds, strict=True)])
        self.second = np.concatenate([_table(*pair, SECOND_BITS) for pair in zip(floors, bounds, strict=True)])
        self.keys: NDArray[np.uint64] = np.array(
            [index << PREFIX_BITS | floor for index, of_class in enumerate(floors) for floor in of_class], np.uint64
        )
        lengths = np.array([len(of_class) for of_class in floors], np.int64)
        self._zeros = np.cumsum(lengths) - lengths + np.array(bounds, np.int64)  # where outcome 0 is among the keys

    def reserve_bytes(self, counts: Sequence[int]) -> int:
        """Entropy for one frame with ``counts`` values of each class, enough in nearly every case."""
        per_class = np.array(counts, np.float64)
        first_open = float(per_class @ self._open_share(self.first))
        second_open = float(per_class @ self._open_share(self.second))
        expected = first_open + 8 * second_open + 8 * (math.sqrt(first_open) + 8 * math.sqrt(second_open))
        return sum(counts) + (sum(counts) + 1) // 2 + math.ceil(expected) + 64

    def _open_share(self, table: NDArray[np.int16]) -> NDArray[np.float64]:
        share: NDArray[np.float64] = (table.reshape(len(self._grids), -1) == UNDECIDED).mean(axis=1)
        return share

    def fetch(self, count: int) -> None:
        """Ask for the entropy of a frame in one block; the rest of the last block is dropped."""
        self._block = memoryview(self._fresh(count))

    def _fresh(self, count: int) -> bytes:
        block = self._entropy(count)
        if len(block) != count:
            raise SplitModelError(
                f"entropy source gave {len(block)} bytes of {count}", remedy="nothing is released"
            )
        return block

    def _take(self, count: int) -> memoryview:
        """``count`` bytes never used before."""
        if count > len(self._block):
            return memoryview(self._fresh(count))
        taken, self._block = self._block[:count], self._block[count:]
        return taken

    def draw(
        self, noise: NDArray[np.int16], cells: NDArray[np.uint16], rows: NDArray[np.uint16], layout: TensorLayout
    ) -> None:
        """Fill ``noise`` int16 [layout.size] with fresh noise.

        ``rows`` uint16 [layout.row] is class·2^12 of each channel, tiled; ``cells`` uint16
        [layout.size] is scratch. The first half of the values takes bits 8..11 from the low half of a
        byte that it shares with the second half.
        """
        size = layout.size
        half = (size + 1) // 2
        fresh = np.frombuffer(self._take(size + half), np.uint8)
        low, high = fresh[:size], fresh[size:]
        np.left_shift(high, 8, out=cells[:half], dtype=np.uint16)
        np.left_shift(high[: size - half], 4, out=cells[half:], dtype=np.uint16)
        np.bitwise_and(cells, 0x0F00, out=cells)
        np.bitwise_or(cells, low, out=cells)
        for piece in layout.pieces:
            part = cells[piece.start : piece.stop].reshape(piece.rows, piece.width)
            np.bitwise_or(part, rows[: piece.width], out=part)
            # mode only to skip take's own bounds check, which copies; every cell is inside the tables
            np.take(self.first, part.reshape(-1), out=noise[piece.start : piece.stop], mode="wrap")
        self._refine(noise, cells)

    def _refine(self, noise: NDArray[np.int16], cells: NDArray[np.uint16]) -> None:
        """Decide the cells that the first table left open."""
        at = np.flatnonzero(noise == UNDECIDED)
        if at.size == 0:
            return
        cell = cells.take(at).astype(np.int64) << (SECOND_BITS - FIRST_BITS)
        cell |= np.frombuffer(self._take(at.size), np.uint8) & ((1 << (SECOND_BITS - FIRST_BITS)) - 1)
        drawn = self.second.take(cell)
        still = np.flatnonzero(drawn == UNDECIDED)
        if still.size:
            drawn[still] = self._search(cell.take(still).astype(np.uint64))
        noise[at] = drawn

    def _search(self, cell: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Outcomes for cells (class·2^16 + 16 bits) of the second table that hold a threshold."""
        more = np.frombuffer(self._take(8 * cell.size), "<u8") >> np.uint64(64 - PREFIX_BITS + SECOND_BITS)
        key = cell << np.uint64(PREFIX_BITS - SECOND_BITS) | more
        above = np.searchsorted(self.keys, key, side="right")
        index = (cell >> np.uint64(SECOND_BITS)).astype(np.int64)
        outcome: NDArray[np.int64] = above - self._zeros[index]
        for tie in np.flatnonzero(self.keys[np.maximum(above - 1, 0)] == key).tolist():
            outcome[tie] = self.decide(int(index[tie]), int(key[tie]) & ((1 << PREFIX_BITS) - 1))
        return outcome

    def decide(self, index: int, prefix: int) -> int:
        """The outcome of class ``index`` for a U that begins with the 60 bits ``prefix``, exactly."""
        grid = self._grids[index]
        bits = PREFIX_BITS
        while True:
            floors = grid.floors(bits)
            above = bisect_right(floors, prefix)
            if above == 0 or floors[above - 1] != prefix:
                return above - grid.bound
            prefix = prefix << _LOOP_BITS | int.from_bytes(self._fresh(_LOOP_BITS // 8), "little")
            bits += _LOOP_BITS


def _table(floors: Sequence[int], bound: int, bits: int) -> NDArray[np.int16]:
    """int16 [2^bits]: the outcome of every U that begins with the cell's bits, or `UNDECIDED`."""
    cells = np.array(floors, np.int64) >> (PREFIX_BITS - bits)
    table = np.searchsorted(cells, np.arange(1 << bits), side="right") - bound
    table[cells] = UNDECIDED
    return table.astype(np.int16)

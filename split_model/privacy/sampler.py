"""Discrete Laplace noise, exact, by inversion with fresh entropy.

A uniform number U in [0, 1) is revealed bit by bit until it is clear between which two values of the
CDF it lies. The first 16 bits index a table of 2^16 cells; nearly all cells lie inside one outcome's
interval. For the few that hold a threshold 44 more bits are drawn and the 60-bit prefix is compared with
the floors of 2^60·F; where it equals one (about once in 2^52 values), an unbounded loop in Python
integers decides. No outcome's probability is off by anything.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from split_model.errors import SplitModelError
from split_model.privacy.grid import Grid
from split_model.privacy.thresholds import cdf_floors

Entropy = Callable[[int], bytes]

MAX_CLASSES = 16
TABLE_BITS = 16
PREFIX_BITS = 60  # with 4 bits for the class this fills a uint64
TABLE_CELLS = 1 << TABLE_BITS
_MORE_BITS = PREFIX_BITS - TABLE_BITS
_SENTINEL = -(1 << 15)
_LOOP_BITS = 64
# Room for twice the expected number of refinements, so that a second request is rare.
_SPARE_SHIFT = 7


class LaplaceSampler:
    """Noise for up to 16 classes, clamped to ±``bound`` of each; 128 KiB of table a class.

    ``entropy(n)`` returns n fresh bytes from a source fit for cryptography. Not for use from two threads.
    """

    def __init__(self, grids: Sequence[Grid], *, entropy: Entropy) -> None:
        if not 0 < len(grids) <= MAX_CLASSES:
            raise ValueError(f"{len(grids)} classes of noise; 1 to {MAX_CLASSES} fit")
        self._grids = tuple(grids)
        self._entropy = entropy
        self.tables: NDArray[np.int16] = np.empty(len(grids) * TABLE_CELLS, np.int16)
        keys: list[int] = []
        firsts: list[int] = []
        for index, grid in enumerate(grids):
            floors = cdf_floors(grid.epsilon, grid.steps, grid.bound, PREFIX_BITS)
            firsts.append(len(keys))
            keys += [index << PREFIX_BITS | floor for floor in floors]
            self.tables[index * TABLE_CELLS : (index + 1) * TABLE_CELLS] = _table(floors, grid.bound)
        self.keys: NDArray[np.uint64] = np.array(keys, np.uint64)
        self._firsts = np.array(firsts, np.int64)
        self._bounds = np.array([grid.bound for grid in grids], np.int64)

    def request(self, values: int) -> bytes:
        """One block of entropy for ``values`` draws and, most of the time, for all their refinements."""
        return self._fresh(2 * values + 8 * ((values >> _SPARE_SHIFT) + 16))

    def _fresh(self, count: int) -> bytes:
        block = self._entropy(count)
        if len(block) != count:
            raise SplitModelError(f"entropy source gave {len(block)} bytes of {count}; nothing is released")
        return block

    def refine(
        self, noise: NDArray[np.int16], words: NDArray[np.uint16], classes: NDArray[np.int64], spare: memoryview
    ) -> memoryview:
        """Decide what the table left open.

        ``noise`` int16 [n], as looked up, is mended in place; ``words`` uint16 [n] are the first 16 bits;
        ``classes`` int64 [C] the class of each channel, value i being of channel i mod C. ``spare`` is
        unused entropy; what is left of it is returned.
        """
        open_at = np.flatnonzero(noise == _SENTINEL)
        if open_at.size == 0:
            return spare
        wanted = 8 * open_at.size
        if len(spare) < wanted:
            spare = memoryview(self._fresh(wanted))
        more = np.frombuffer(spare[:wanted], "<u8") >> np.uint64(64 - _MORE_BITS)
        index = classes[open_at % classes.size]
        key = index.astype(np.uint64) << np.uint64(PREFIX_BITS)
        key |= words[open_at].astype(np.uint64) << np.uint64(_MORE_BITS)
        key |= more
        above = np.searchsorted(self.keys, key, side="right")
        noise[open_at] = above - self._firsts[index] - self._bounds[index]
        ties = np.flatnonzero(self.keys[np.maximum(above - 1, 0)] == key)
        for tie in ties.tolist():
            prefix = int(key[tie]) & ((1 << PREFIX_BITS) - 1)
            noise[open_at[tie]] = self.decide(int(index[tie]), prefix)
        return spare[wanted:]

    def decide(self, index: int, prefix: int) -> int:
        """The outcome of class ``index`` for a U that begins with the 60 bits ``prefix``, exactly."""
        grid = self._grids[index]
        bits = PREFIX_BITS
        while True:
            floors = cdf_floors(grid.epsilon, grid.steps, grid.bound, bits)
            above = bisect_right(floors, prefix)
            if above == 0 or floors[above - 1] != prefix:
                return above - grid.bound
            prefix = prefix << _LOOP_BITS | int.from_bytes(self._fresh(_LOOP_BITS // 8), "little")
            bits += _LOOP_BITS


def _table(floors: Sequence[int], bound: int) -> NDArray[np.int16]:
    """int16 [2^16]: the outcome of every U that begins with the cell's 16 bits, or the sentinel."""
    cells = np.array([floor >> _MORE_BITS for floor in floors], np.int64)
    table = np.searchsorted(cells, np.arange(TABLE_CELLS), side="right") - bound
    table[cells] = _SENTINEL
    return table.astype(np.int16)

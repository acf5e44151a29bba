"""Allocates the budget of a cut, Σ n_c·ε_c, to its channels.

``uniform``: the same ε for every value. ``rank``: ε_c proportional to the mean rank of the channel's
feature map (CIS). ``optimal``: least expected noise energy weighted by sensitivity. A Laplace value of
channel c errs by 2·(B_c/ε_c)², so Σ w_c·n_c·2·B_c²/ε_c² is least under Σ n_c·ε_c = E where
w_c·B_c²/ε_c³ is the same for all c: ε_c ∝ (w_c·B_c²)^⅓, whatever the n_c.

All in integers and rational numbers, so that every machine finds the same plan.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Literal, get_args

import msgspec

from split_model.bundle.manifest import Allocation, Cut
from split_model.privacy.accountant import round_down, round_up

ALLOCATIONS: tuple[Allocation, ...] = get_args(Allocation)
#: The user's choices: one allocation for all cuts, or the best one at each.
AllocationWish = Literal["auto", "uniform", "rank", "optimal"]

MAX_CLASSES = 15  # their tables then take at most 2 MiB on the device
#: No value gets less than this part of the mean ε: weights are estimates, and a channel of weight 0 may matter.
FLOOR_SHARE = Fraction(1, 32)
_SHARE_BITS = 20
_LEADING_BITS = 7
#: Number of classings that a `Sharing` caches: one for each number of channels at the floor.
_REMEMBERED = 16


def settle(wish: AllocationWish, cut: Cut, epsilon: float) -> Allocation:
    """The allocation to use at a cut: for ``auto`` the best one by the measurement of `prepare`.

    ``epsilon``: the mean per value; a noise-aware tail for it has its own measurement. Without a measurement (a
    bundle of an older version) it is ``optimal``, the best by formula.
    """
    if wish != "auto":
        return wish
    measured = cut.allocation_at(epsilon)
    return "optimal" if measured is None else measured.best


class Channel(msgspec.Struct, frozen=True):
    """One channel of a cut: number of values, clip width in real units, mean rank, sensitivity weight."""

    values: int
    width: Fraction
    rank: float
    weight: float


def allocate(
    allocation: Allocation, channels: Sequence[Channel], epsilon: float, *, least: float = 0.0
) -> list[float]:
    """Per-value ε of each channel, at most 15 different ones, with Σ n_c·ε_c ≤ Σ n_c · ``epsilon``.

    If all shares are zero, ``rank`` is uniform; ``optimal`` takes all weights as equal, or is uniform if all widths
    are zero too. No channel gets less than ``epsilon``/32 or ``least`` (which must not exceed ``epsilon``); the
    others are reduced in proportion. Channels of similar share form a class with the mean ε of its values, because
    each different ε needs a table of 136 KiB on the device.
    """
    return Sharing(allocation, channels).allocate(epsilon, least=least)


class Sharing:
    """One allocation over the channels of a cut; computes the parts independent of ε once."""

    def __init__(self, allocation: Allocation, channels: Sequence[Channel]) -> None:
        self._shares = _shares(allocation, channels)
        self._counts = [channel.values for channel in channels]
        order = sorted(range(len(channels)), key=self._shares.__getitem__)
        self._ascending = [self._shares[at] for at in order]
        self._values_below = list(accumulate((self._counts[at] for at in order), initial=0))
        spent = (self._shares[at] * self._counts[at] for at in order)
        self._spent_below = list(accumulate(spent, initial=0))
        self._classed: dict[int, _Classed] = {}

    def allocate(self, epsilon: float, *, least: float = 0.0) -> list[float]:
        """`allocate` for these channels."""
        mean = Fraction(epsilon)
        floor = Fraction(max(least, round_up(mean * FLOOR_SHARE)))
        raised, unit = self._raise_to_floor(mean * self._values_below[-1], floor)
        classed = self._classed.get(raised)
        if classed is None:
            if len(self._classed) >= _REMEMBERED:
                self._classed.clear()
            classed = self._classed[raised] = self._classes(raised)
        rounded = [
            round_down(floor if low else unit * spent / size)
            for size, spent, low in zip(classed.sizes, classed.spent, classed.low, strict=True)
        ]
        return [rounded[at] for at in classed.class_of]

    def _raise_to_floor(self, total: Fraction, floor: Fraction) -> tuple[int, Fraction]:
        """The number of channels at the floor (least share first), and ε per share for all the others."""
        raised = 0
        while True:
            left = total - floor * self._values_below[raised]
            unit = left / (self._spent_below[-1] - self._spent_below[raised])
            again = max(raised, bisect_left(self._ascending, math.ceil(floor / unit)))
            if again == raised:
                return raised, unit
            raised = again

    def _classes(self, raised: int) -> _Classed:
        least = self._ascending[raised]
        keys = _classes([None if share < least else share for share in self._shares], self._counts)
        order = {key: at for at, key in enumerate(dict.fromkeys(keys))}
        sizes, spent, low = [0] * len(order), [0] * len(order), [False] * len(order)
        for key, share, count in zip(keys, self._shares, self._counts, strict=True):
            at = order[key]
            sizes[at] += count
            spent[at] += count * share
            low[at] = share < least
        return _Classed([order[key] for key in keys], sizes, spent, low)


class _Classed(msgspec.Struct, frozen=True):
    """The classes of channels. For each class: number of values, sum of shares, and whether it is at the floor."""

    class_of: list[int]
    sizes: list[int]
    spent: list[int]
    low: list[bool]


def relative_cost(allocation: Allocation, channels: Sequence[Channel], epsilon: float) -> float:
    """Expected weighted noise energy over that of the optimum at the same budget; 1 is best.

    Compares the result of `allocate`, floor and classes included, with the ideal
    ε_c ∝ (w_c·B_c²)^⅓ (equal weights where all are zero). A proxy for accuracy, not accuracy.
    """
    given = [Fraction(value) for value in allocate(allocation, channels, epsilon)]
    weights = [float(part) for part in _energy_weights(channels)]
    counts = [channel.values for channel in channels]
    best = math.fsum(count * weight ** (1 / 3) for count, weight in zip(counts, weights, strict=True)) ** 3
    if best == 0:
        return 1.0
    budget = float(Fraction(epsilon) * sum(counts))
    spent = math.fsum(
        count * weight / float(value) ** 2 for count, weight, value in zip(counts, weights, given, strict=True)
    )
    return spent * budget**2 / best


def _energy_weights(channels: Sequence[Channel]) -> list[Fraction]:
    """w_c·B_c² over the largest; w_c = 1 where all weights of channels with a width are zero."""
    energies = [Fraction(channel.weight) * channel.width**2 for channel in channels]
    if not any(energies):
        energies = [channel.width**2 for channel in channels]
    top = max(energies)
    return [energy / top for energy in energies] if top else energies


def _shares(allocation: Allocation, channels: Sequence[Channel]) -> list[int]:
    """Wanted ε_c, as integers below 2^20 + 1 in proportion to the largest."""
    one = 1 << _SHARE_BITS
    if allocation == "optimal":
        energies = _energy_weights(channels)
        shares = [_cube_root(int(energy * one**3)) for energy in energies]
    elif allocation == "rank":
        top = max(Fraction(channel.rank) for channel in channels)
        shares = [int(Fraction(channel.rank) / top * one) if top else 0 for channel in channels]
    else:
        shares = [one] * len(channels)
    return shares if any(shares) else [one] * len(channels)


def _cube_root(value: int) -> int:
    """floor(value^⅓), by Newton's method on integers."""
    if value == 0:
        return 0
    root = 1 << -(-value.bit_length() // 3)
    while True:
        step = (2 * root + value // root**2) // 3
        if step >= root:
            return root
        root = step


def _classes(shares: Sequence[int | None], counts: Sequence[int]) -> list[int]:
    """The class of each channel; those at the floor (None) are one of at most 15.

    If there are more different shares, those with the same seven leading bits begin as one class; then the two
    neighbours with the lowest merging cost are merged until few enough are left. A relative error d of ε costs
    energy in proportion to ε·d², so this is Ward's criterion. Only +, -, × and / on floats, which every machine
    rounds alike.
    """
    keys = [None if share is None else (0, share) for share in shares]
    if len(set(keys)) > MAX_CLASSES:
        keys = [None if share is None else _leading(share) for share in shares]
    order = sorted({key for key in keys if key is not None})
    index = {key: at for at, key in enumerate(order)}
    sizes, spent = [0] * len(order), [0] * len(order)
    for key, share, count in zip(keys, shares, counts, strict=True):
        if key is not None and share is not None:
            sizes[index[key]] += count
            spent[index[key]] += count * share
    merged = _merge_neighbours(sizes, spent, MAX_CLASSES - (None in keys))
    return [len(order) if key is None else merged[index[key]] for key in keys]


def _leading(share: int) -> tuple[int, int]:
    drop = max(share.bit_length() - _LEADING_BITS, 0)
    return drop, share >> drop


def _merge_neighbours(sizes: Sequence[int], spent: Sequence[int], limit: int) -> list[int]:
    """For classes in ascending order of share: the first class of the merged run of each."""
    runs = [(at, size, total) for at, (size, total) in enumerate(zip(sizes, spent, strict=True))]
    costs = [_merge_cost(*pair) for pair in pairwise(runs)]
    while len(runs) > limit:
        at = costs.index(min(costs))
        (first, size, total), (_, more, other) = runs[at : at + 2]
        runs[at : at + 2] = [(first, size + more, total + other)]
        near = runs[max(at - 1, 0) : at + 2]
        costs[max(at - 1, 0) : at + 2] = [_merge_cost(*pair) for pair in pairwise(near)]
    firsts = [first for first, _, _ in runs]
    return [firsts[bisect_right(firsts, at) - 1] for at in range(len(sizes))]


def _merge_cost(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    (_, size, total), (_, more, rest) = one, other
    gap = (rest / more - total / size) / (rest / more + total / size)
    return total * rest / (total + rest) * (gap * gap)

"""The thresholds and tables against rational arithmetic that knows nothing of `decimal`."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from split_model.privacy.grid import make_grid
from split_model.privacy.laplace_cdf import _tail_floors, cdf_floors, tail_floors
from split_model.privacy.sampler import FIRST_BITS, PREFIX_BITS, SECOND_BITS, UNDECIDED, LaplaceSampler

WORK_BITS = 512
ONE = 1 << WORK_BITS


def enclose_exp(rate: Fraction) -> tuple[int, int]:
    """exp(-rate)·2^512 between two integers: alternating Taylor series, then squaring, rounded outwards."""
    halvings = max(0, (rate.numerator // rate.denominator).bit_length() + 2)
    small = rate / 2**halvings
    term = Fraction(1)
    partial = [Fraction(0)]
    index = 0
    while len(partial) < 3 or abs(term) > Fraction(1, ONE):
        partial.append(partial[-1] + term)
        index += 1
        term = -term * small / index
        term = Fraction(int(term * ONE * 2**64), ONE * 2**64)  # keeps the numbers short; paid for below
    slack = index * 4
    low = int(min(partial[-2:]) * ONE) - slack
    high = int(max(partial[-2:]) * ONE) + slack
    for _ in range(halvings):
        low, high = low * low >> WORK_BITS, -(-high * high >> WORK_BITS)
    return low, high


def enclose_tails(epsilon: float, steps: int, count: int) -> list[tuple[Fraction, Fraction]]:
    """q^m/(1 + q) between two rational numbers, m = 1..count."""
    q_low, q_high = enclose_exp(Fraction(epsilon) / steps)
    low, high = q_low, q_high
    tails = []
    for _ in range(count):
        tails.append((Fraction(low, ONE + q_high), Fraction(high, ONE + q_low)))
        low, high = low * q_low >> WORK_BITS, -(-high * q_high >> WORK_BITS)
    return tails


CASES = [(0.5, 8), (1.0, 8), (16.0, 8), (16.0, 6), (16.0, 4), (7.3, 5), (73.93080432553752, 8), (0.1, 7)]


@pytest.mark.parametrize(("epsilon", "bits"), CASES)
@pytest.mark.parametrize("precision", [16, 60, 124, 188])
def test_every_floor_is_exactly_right(epsilon, bits, precision):
    grid = make_grid(epsilon, bits)
    floors = tail_floors(epsilon, grid.steps, grid.bound, precision)
    for floor, (low, high) in zip(floors, enclose_tails(epsilon, grid.steps, grid.bound), strict=True):
        assert low < high
        assert floor == int(low * 2**precision) == int(high * 2**precision)


@pytest.mark.parametrize("digits", [6, 10, 17, 18, 19, 20, 21, 22])
def test_too_little_precision_gives_no_answer_rather_than_a_wrong_one(digits):
    """2^60 has 19 digits: around there the interval is what stands between a right floor and a wrong one."""
    answers = 0
    for epsilon, bits in CASES:
        grid = make_grid(epsilon, bits)
        for count in range(1, grid.bound + 1, 7):
            found = _tail_floors(epsilon, grid.steps, count, 60, digits)
            if found is not None:
                answers += 1
                assert found == tail_floors(epsilon, grid.steps, count, 60)
    assert answers > 0 or digits < 20


def test_cdf_floors_are_the_two_tails():
    grid = make_grid(2.0, 6)
    floors = cdf_floors(2.0, grid.steps, grid.bound, 60)
    assert len(floors) == 2 * grid.bound
    assert floors == sorted(floors)
    tails = enclose_tails(2.0, grid.steps, grid.bound)
    for x, floor in zip(range(-grid.bound, grid.bound), floors, strict=True):
        if x < 0:
            assert floor == int(tails[-x - 1][0] * 2**60)
        else:
            assert floor == int((1 - tails[x][1]) * 2**60) == int((1 - tails[x][0]) * 2**60)


def prefix_counts(sampler, index, bound):
    """How many of the 2^60 prefixes the sampler gives to each outcome, ties apart, stage by stage."""
    counts = dict.fromkeys(range(-bound, bound + 1), 0)
    ties = 0
    first = sampler.first[index << FIRST_BITS : (index + 1) << FIRST_BITS]
    second = sampler.second[index << SECOND_BITS : (index + 1) << SECOND_BITS]
    keys = [int(key) - (index << PREFIX_BITS) for key in sampler.keys if int(key) >> PREFIX_BITS == index]
    for outcome in first[first != UNDECIDED].tolist():
        counts[outcome] += 1 << (PREFIX_BITS - FIRST_BITS)
    fine = 1 << (SECOND_BITS - FIRST_BITS)
    opened = (np.flatnonzero(first == UNDECIDED)[:, None] * fine + np.arange(fine)).ravel()
    cell_size = 1 << (PREFIX_BITS - SECOND_BITS)
    for cell in opened.tolist():
        outcome = int(second[cell])
        if outcome != UNDECIDED:
            counts[outcome] += cell_size
            continue
        start, stop = cell * cell_size, (cell + 1) * cell_size
        below = sum(key < start for key in keys)
        inside = [key for key in keys if start <= key < stop]
        at = start
        for key in sorted(set(inside)):  # prefixes at..key-1 lie above ``below`` thresholds
            counts[below - bound] += key - at
            below += inside.count(key)
            ties += 1
            at = key + 1
        counts[below - bound] += stop - at
    return counts, ties


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_probability_of_every_outcome_is_the_truth(index):
    grids = [make_grid(1.0, 8), make_grid(16.0, 6), make_grid(5.5, 4)]
    sampler = LaplaceSampler(grids, entropy=lambda count: pytest.fail(f"no entropy needed, {count} asked"))
    grid = grids[index]
    bound = grid.bound
    counts, ties = prefix_counts(sampler, index, bound)
    assert sum(counts.values()) + ties == 1 << PREFIX_BITS
    tails = enclose_tails(grid.epsilon, grid.steps, bound + 1)
    for outcome, count in counts.items():
        size = abs(outcome)
        if size == bound:
            truth = tails[bound - 1][0]
        elif size == 0:
            truth = 1 - 2 * tails[0][0]
        else:
            truth = tails[size - 1][0] - tails[size][0]
        assert abs(Fraction(count, 1 << PREFIX_BITS) - truth) <= Fraction(1, 1 << 58)

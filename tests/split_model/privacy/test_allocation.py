"""Sharing the budget: never more than there is, and best where it says best."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from split_model.privacy.accountant import round_down, round_up
from split_model.privacy.allocation import FLOOR_SHARE, MAX_CLASSES, Channel, allocate, relative_cost

ALLOCATIONS = ["uniform", "rank", "optimal"]
size = st.floats(0, 1e6)
channel = st.builds(
    Channel, values=st.integers(1, 10_000), width=size.map(Fraction), rank=st.floats(0, 112), weight=size
)


def spent(epsilons, channels):
    return sum(Fraction(epsilon) * item.values for epsilon, item in zip(epsilons, channels, strict=True))


@given(
    allocation=st.sampled_from(ALLOCATIONS),
    channels=st.lists(channel, min_size=1, max_size=60),
    epsilon=st.floats(0.05, 1e4),
    least=st.floats(0, 1),
)
def test_the_budget_is_never_exceeded_and_nearly_all_used(allocation, channels, epsilon, least):
    least = min(least, epsilon)
    given_out = allocate(allocation, channels, epsilon, least=least)
    budget = Fraction(epsilon) * sum(item.values for item in channels)
    assert spent(given_out, channels) <= budget
    assert spent(given_out, channels) >= budget * (1 - Fraction(1, 10**12))
    assert min(given_out) >= max(least, Fraction(epsilon) * FLOOR_SHARE)
    assert len(set(given_out)) <= MAX_CLASSES


def many(seed=3, count=300):
    random = np.random.default_rng(seed)
    return [
        Channel(values=int(n), width=Fraction(float(width)), rank=float(rank), weight=float(weight))
        for n, width, rank, weight in zip(
            random.choice([49, 196], count),
            random.lognormal(0, 0.5, count),
            random.uniform(1, 7, count),
            random.lognormal(0, 1, count),
            strict=True,
        )
    ]


def energy(epsilons, channels):
    return sum(
        item.values * item.weight * 2 * float(item.width) ** 2 / epsilon**2
        for epsilon, item in zip(epsilons, channels, strict=True)
    )


def test_optimal_cannot_be_bettered_by_moving_budget():
    """From any channel's value to any other's: a numerical check of the derivation, classes included."""
    channels = many(count=12)
    best = np.array(allocate("optimal", channels, 16.0))
    counts = np.array([item.values for item in channels])
    start = energy(best, channels)
    for give in range(12):
        for take in range(12):
            moved = best.copy()
            moved[give] -= 0.2 / counts[give] * 49
            moved[take] += 0.2 / counts[take] * 49
            if give != take:
                assert energy(moved, channels) > start


def test_optimal_is_the_cube_root_rule():
    channels = [
        Channel(values=n, width=Fraction(width), rank=1.0, weight=weight)
        for n, width, weight in ((10, 1, 1.0), (99, 8, 1.0), (5, 1, 27.0), (7, 2, 0.25))
    ]
    epsilons = allocate("optimal", channels, 4.0)
    np.testing.assert_allclose(np.array(epsilons) / epsilons[0], [1, 4, 3, 1], rtol=1e-5)


def test_rank_is_in_proportion_and_uniform_is_uniform():
    channels = [Channel(values=10, width=Fraction(1), rank=rank, weight=rank**3) for rank in (1.0, 2.0, 4.5)]
    epsilons = allocate("rank", channels, 8.0)
    np.testing.assert_allclose(np.array(epsilons) / epsilons[0], [1, 2, 4.5], rtol=1e-5)
    assert allocate("uniform", channels, 8.1) == [8.1] * 3


def test_classes_cost_little():
    channels = many()
    cost = {allocation: relative_cost(allocation, channels, 16.0) for allocation in ALLOCATIONS}
    assert 1 <= cost["optimal"] < 1.02
    assert cost["uniform"] > cost["optimal"]
    assert cost["rank"] > cost["optimal"]


def test_relative_cost_is_the_ratio_of_energies():
    channels = many(count=10)
    ideal = np.array([(item.weight * float(item.width) ** 2) ** (1 / 3) for item in channels])
    counts = np.array([item.values for item in channels])
    ideal *= 16.0 * counts.sum() / (counts @ ideal)
    expected = energy([16.0] * 10, channels) / energy(ideal, channels)
    assert relative_cost("uniform", channels, 16.0) == pytest.approx(expected)


def test_degenerate_weights():
    def channels(widths, weights, ranks=(0.0, 0.0)):
        return [
            Channel(values=5, width=Fraction(width), rank=rank, weight=weight)
            for width, weight, rank in zip(widths, weights, ranks, strict=True)
        ]

    equal = allocate("optimal", channels((1, 8), (0.0, 0.0)), 10.0)
    assert equal[1] / equal[0] == pytest.approx(4, rel=1e-5)  # all weights zero: taken as equal
    assert allocate("optimal", channels((0, 0), (1.0, 2.0)), 10.0) == [10.0, 10.0]
    assert allocate("rank", channels((1, 8), (1.0, 2.0)), 10.0) == [10.0, 10.0]
    floored = allocate("optimal", channels((1, 1), (0.0, 1.0)), 10.0)
    assert floored[0] == 10.0 / 32
    assert relative_cost("uniform", channels((0, 0), (1.0, 2.0)), 10.0) == 1.0


@given(st.fractions(min_value=0, max_value=10**9))
def test_rounding_is_directed(value):
    assert Fraction(round_down(value)) <= value <= Fraction(round_up(value))

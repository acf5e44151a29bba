"""The audit itself: exact bounds, never above the truth, and near it where the trials allow."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from split_model.audit import Observed, at_least, at_most, lower_bound

TRIALS = 8000


def test_the_bounds_are_those_of_clopper_and_pearson():
    assert at_least(0, 100, 1e-6) == 0.0
    assert at_least(100, 100, 1e-6) == pytest.approx(1e-6 ** (1 / 100), rel=1e-9)  # closed form
    assert at_most(0, 100, 1e-6) == pytest.approx(1 - 1e-6 ** (1 / 100), rel=1e-9)
    assert at_most(100, 100, 1e-6) == 1.0
    assert stats.binom.sf(29, 100, at_least(30, 100, 1e-3)) == pytest.approx(1e-3, rel=1e-6)
    assert stats.binom.cdf(30, 100, at_most(30, 100, 1e-3)) == pytest.approx(1e-3, rel=1e-6)


def observed(values, lengths=None, seconds=None):
    count = len(values)
    return Observed(
        np.asarray(values).reshape(count, -1),
        np.full(count, 8) if lengths is None else lengths,
        np.random.default_rng(9).exponential(1.0, count) if seconds is None else seconds,
    )


def response(word, epsilon, words, count, seed):
    """Randomised response, by another way than ours."""
    generator = np.random.default_rng(seed)
    keep = generator.random(count) < math.exp(epsilon) / (math.exp(epsilon) + words - 1)
    other = (word + generator.integers(1, words, count)) % words
    return np.where(keep, word, other)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_randomised_response_is_found_to_be_nearly_what_it_is(epsilon):
    sides = [observed(response(word, epsilon, 4, TRIALS, word)) for word in (0, 3)]
    found = lower_bound(*sides)
    assert 0.45 * epsilon < found.epsilon <= epsilon
    assert "value 0" in found.event or "likelihood" in found.event


def test_equal_inputs_prove_nothing():
    """Fifty audits of no difference at all: one bound above 0 has a chance of one in two hundred."""
    for seed in range(50):
        generator = np.random.default_rng(seed)
        one, other = (observed(generator.integers(0, 40, (600, 3))) for _ in range(2))
        assert lower_bound(one, other, error=1e-4).epsilon == 0.0


def test_many_values_that_each_tell_little_are_added_up():
    generator = np.random.default_rng(0)
    one = observed(generator.laplace(0, 8, (TRIALS, 16)).round())
    other = observed(generator.laplace(2, 8, (TRIALS, 16)).round())
    found = lower_bound(one, other)
    assert "likelihood ratio" in found.event
    assert (
        found.epsilon
        > lower_bound(*(Observed(o.values[:, :1], o.lengths, o.seconds) for o in (one, other))).epsilon
    )
    assert found.epsilon <= 16 * 2 / 8


@pytest.mark.parametrize("hidden", ["lengths", "seconds"])
def test_what_is_beside_the_payload_is_seen(hidden):
    generator = np.random.default_rng(1)
    sides = []
    for extra in (0, 1):
        values = generator.integers(0, 256, (TRIALS, 2))
        beside = {
            "lengths": {"lengths": 8 + extra * generator.integers(0, 2, TRIALS)},
            "seconds": {"seconds": generator.exponential(1.0, TRIALS) + 2.0 * extra},
        }[hidden]
        sides.append(observed(values, **beside))
    found = lower_bound(*sides)
    assert found.epsilon > 1.0
    assert {"lengths": "length", "seconds": "time"}[hidden] in found.event


def test_a_short_list_of_payloads_is_recognised():
    generator = np.random.default_rng(2)
    noise = generator.integers(0, 10_000, (50, 2))
    sides = [observed(noise[generator.integers(0, 50, TRIALS)] + step) for step in (0, 1)]
    found = lower_bound(*sides)
    assert found.epsilon > 4
    assert "seen under" in found.event

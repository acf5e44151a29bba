"""Bounds of an agreement: exact where a picture agrees or not, on the safe side for several releases of each."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from split_model.prepare.evaluate.intervals import lower_bound, upper_bound

PICTURES = st.integers(1, 400)
CONFIDENCE = st.sampled_from([0.8, 0.95, 0.99])


def tail(agreed: int, pictures: int, p: float) -> float:
    """The chance that ``agreed`` or more of the pictures agree, each with probability ``p``."""
    return math.fsum(math.comb(pictures, k) * p**k * (1 - p) ** (pictures - k) for k in range(agreed, pictures + 1))


@given(st.integers(1, 60), st.data(), CONFIDENCE)
def test_the_bound_is_where_as_much_agreement_is_just_as_unlikely_as_was_asked_for(pictures, data, confidence):
    agreed = data.draw(st.integers(1, pictures))
    bound = lower_bound(agreed, pictures, confidence)
    assert tail(agreed, pictures, bound) == pytest.approx(1 - confidence, rel=1e-6)


@given(PICTURES, st.data(), CONFIDENCE)
def test_bounds_enclose_the_mean_and_rise_with_it(pictures, data, confidence):
    one, other = sorted(data.draw(st.tuples(*[st.floats(0, pictures)] * 2)))
    low, high = (lower_bound(agreed, pictures, confidence) for agreed in (one, other))
    assert 0.0 <= low <= high + 1e-9
    assert low <= one / pictures + 1e-9
    assert upper_bound(one, pictures, confidence) >= one / pictures - 1e-9
    assert upper_bound(one, pictures, confidence) == pytest.approx(
        1 - lower_bound(pictures - one, pictures, confidence)
    )


@given(PICTURES, CONFIDENCE)
def test_the_ends_are_closed_forms(pictures, confidence):
    assert lower_bound(0, pictures, confidence) == 0.0
    assert lower_bound(pictures, pictures, confidence) == pytest.approx((1 - confidence) ** (1 / pictures))
    assert upper_bound(pictures, pictures, confidence) == 1.0


def test_what_is_no_agreement_is_refused():
    for agreed, pictures in ((0.0, 0), (-0.1, 3), (3.1, 3)):
        with pytest.raises(ValueError, match="agreement"):
            lower_bound(agreed, pictures)


@pytest.mark.parametrize("pictures", [8, 14, 60])
@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("mean", [0.8, 0.9, 0.97])
@pytest.mark.parametrize("spread", [0.02, 0.2, 1.0])
def test_the_true_mean_lies_above_the_bound_as_often_as_it_says(pictures, draws, mean, spread):
    """Each picture has its own chance to agree, from all alike (small spread) to always or never."""
    generator = np.random.default_rng((pictures, draws, round(100 * mean), round(100 * spread)))
    trials = 1500
    total = 1 / spread - 1 + 1e-6  # of the beta distribution that the chances are from
    chances = generator.beta(mean * total, (1 - mean) * total, (trials, pictures))
    agreed = generator.binomial(draws, chances).sum(axis=1) / draws
    values, counts = np.unique(agreed, return_counts=True)
    covered = sum(count for one, count in zip(values, counts, strict=True) if lower_bound(one, pictures) <= mean)
    assert covered / trials >= 0.8 - 0.03  # three standard deviations of 1500 trials

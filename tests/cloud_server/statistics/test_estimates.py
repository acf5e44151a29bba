"""The linear inverse: unbiased, with intervals that cover as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_server.statistics.estimates import Response, Z, pairs, single
from split_model.privacy.randomised_response import RandomisedResponse

SAMPLER_FRAMES = 400


def respond(rng: np.random.Generator, response: Response, true: np.ndarray) -> np.ndarray:
    """The mechanism's distribution, drawn fast; `test_the_products_own_sampler` uses the real one."""
    other = rng.integers(0, response.codewords - 1, true.size)
    other += other >= true
    return np.where(rng.random(true.size) < response.kept, true, other)


def frames_of(rng: np.random.Generator, codewords: int, frames: int) -> np.ndarray:
    return np.repeat(np.arange(codewords), rng.multinomial(frames, rng.dirichlet(np.full(codewords, 0.7))))


def standard_deviation(response: Response, true_frames: np.ndarray, frames: int) -> np.ndarray:
    """The standard deviation of `single`'s estimate where ``true_frames`` of ``frames`` had the codeword."""
    p, q = response.kept, response.other
    return np.sqrt(true_frames * p * (1.0 - p) + (frames - true_frames) * q * (1.0 - q)) / response.gap


@pytest.mark.parametrize(
    ("codewords", "epsilon"), [(8, 2.0), (16, 2.0), (32, 3.0), (32, 4.0), (32, 6.0), (10, 8.0)]
)
def test_intervals_cover_19_times_in_20_and_are_as_wide_as_the_variance_says(codewords, epsilon):
    rng, response = np.random.default_rng(codewords), Response.of(codewords, epsilon)
    true = frames_of(rng, codewords, 2000)
    truth = np.bincount(true, minlength=codewords)
    often = truth >= 20
    covered, errors, widths = [], [], []
    for _ in range(500):
        counts = np.bincount(respond(rng, response, true), minlength=codewords)
        found = single(response, counts, true.size)
        covered.append(((found.low <= truth) & (truth <= found.high))[often])
        errors.append(found.frames - truth)
        widths.append((found.high - found.low)[often])
        assert found.frames.sum() == pytest.approx(true.size)
    assert 0.94 <= np.mean(covered) <= 0.96
    deviation = standard_deviation(response, truth, true.size)
    assert np.all(np.abs(np.mean(errors, axis=0)) < 5 * deviation / 500**0.5)  # unbiased
    inside = truth[often] > 3 * deviation[often]  # elsewhere the interval is cut at zero
    wanted = 2 * Z * deviation[often]
    assert np.mean(widths, axis=0)[inside] == pytest.approx(wanted[inside], rel=0.05)


def test_the_products_own_sampler_is_what_the_estimates_undo():
    rng, response = np.random.default_rng(5), Response.of(4, 1.5)
    sampler = RandomisedResponse(4, 1.5, entropy=rng.bytes)
    true = np.repeat(np.arange(4), [180, 120, 80, 20])
    truth = np.bincount(true)
    covered = []
    for _ in range(60):
        counts = np.bincount([sampler(int(codeword)) for codeword in true], minlength=4)
        found = single(response, counts, SAMPLER_FRAMES)
        covered.append((found.low <= truth) & (truth <= found.high))
    assert np.mean(covered) == pytest.approx(0.95, abs=0.06)  # four standard deviations


@pytest.mark.parametrize(("codewords", "epsilon"), [(4, 2.0), (8, 4.0)])
def test_pairs_of_two_groups_are_unbiased_and_covered(codewords, epsilon):
    rng, response = np.random.default_rng(9), Response.of(codewords, epsilon)
    joint = rng.multinomial(4000, rng.dirichlet(np.full(codewords**2, 0.3))).reshape(codewords, codewords)
    first, second = (np.repeat(index, joint.ravel()) for index in np.indices(joint.shape).reshape(2, -1))
    estimates, covered = [], []
    for _ in range(300):
        counts = np.zeros(joint.shape, np.int64)
        np.add.at(counts, (respond(rng, response, first), respond(rng, response, second)), 1)
        found = pairs(response, response, counts)
        estimates.append(found.frames)
        covered.append(((found.low <= joint) & (joint <= found.high))[joint >= 20])
        assert found.frames.sum(axis=1) == pytest.approx(single(response, counts.sum(axis=1), 4000).frames)
        assert found.frames.sum(axis=0) == pytest.approx(single(response, counts.sum(axis=0), 4000).frames)
    assert 0.93 <= np.mean(covered) <= 0.97
    deviation = np.std(estimates, axis=0) / 300**0.5
    assert np.all(np.abs(np.mean(estimates, axis=0) - joint) < 5 * deviation)


@given(
    codewords=st.integers(2, 64),
    epsilon=st.floats(0.1, 16),
    frames=st.integers(0, 10_000),
    data=st.data(),
)
def test_an_interval_is_within_the_frames_and_around_what_it_estimates(codewords, epsilon, frames, data):
    response = Response.of(codewords, epsilon)
    size = data.draw(st.integers(1, codewords - 1))
    count = data.draw(st.integers(0, frames))
    found = single(response.of_set(size), count, frames)
    assert 0 <= found.low <= found.high <= frames
    # Clipped where the estimate is impossible, the interval is still on its side.
    assert found.low <= max(0.0, min(float(found.frames), frames)) + 1e-6 * max(1, frames)
    assert found.high >= max(0.0, min(float(found.frames), frames)) - 1e-6 * max(1, frames)


def test_a_set_of_codewords_is_the_sum_of_its_codewords():
    response = Response.of(10, 3.0)
    counts = np.array([50, 40, 30, 20, 10, 5, 5, 5, 5, 30])
    whole = single(response, counts, 200)
    some = single(response.of_set(3), counts[:3].sum(), 200)
    assert some.frames == pytest.approx(whole.frames[:3].sum())
    assert some.high - some.low < (whole.high - whole.low)[:3].sum()

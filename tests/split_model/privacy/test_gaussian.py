"""The discrete Gaussian: thresholds recomputed in integers, draws counted, the claim audited."""

from __future__ import annotations

import math
import os
from fractions import Fraction

import numpy as np
import pytest

from split_model.bundle import TensorSpec
from split_model.errors import ConfigError
from split_model.privacy import GaussianGrid, make_gaussian_grid, make_grid
from split_model.privacy.accountant import rho_of_pure
from split_model.privacy.conversion import zcdp_delta, zcdp_epsilon
from split_model.privacy.gaussian import TAIL_SIGMAS, gaussian_cdf_floors
from split_model.privacy.layout import lay_out
from split_model.privacy.sampler import FIRST_BITS, PREFIX_BITS, LaplaceSampler, NoiseSampler

SIGNIFICANCE = 1e-6
FIXED = 400  # bits after the point


def power_bounds(rate: Fraction) -> tuple[int, int]:
    """exp(-rate)·2^400, enclosed: the alternating series of exp(-rate/2^h), squared h times."""
    halvings = max(0, math.ceil(rate).bit_length() + 2)
    part, term, total, sign, lows = rate / (1 << halvings), Fraction(1), Fraction(0), 1, []
    for index in range(90):
        total += sign * term
        lows.append(total)
        term, sign = term * part / (index + 1), -sign
    low, high = math.floor(min(lows[-2:]) * (1 << FIXED)), math.ceil(max(lows[-2:]) * (1 << FIXED))
    for _ in range(halvings):
        low, high = low * low >> FIXED, -(-high * high >> FIXED)
    return low, high


def enclosed_cdf(rho: float, steps: int, bound: int) -> list[tuple[Fraction, Fraction]]:
    """P(X ≤ x), x = -bound..bound-1, each between two rational numbers; every term by a series of its own."""
    rate = Fraction(rho) / steps**2
    reach = bound
    while rate * reach**2 < 200:  # the rest is below e^-200, far below what is compared
        reach += 1
    terms = {0: (1 << FIXED, 1 << FIXED)} | {j: power_bounds(rate * j * j) for j in range(1, reach + 1)}
    rest = 1 << (FIXED - 250)
    all_low = terms[0][0] + 2 * sum(low for j, (low, _) in terms.items() if j)
    all_high = terms[0][1] + 2 * (sum(high for j, (_, high) in terms.items() if j) + rest)
    cdf = []
    low_sum = sum(terms[j][0] for j in range(bound, reach + 1))
    high_sum = sum(terms[j][1] for j in range(bound, reach + 1)) + rest
    for x in range(-bound, bound):
        cdf.append((Fraction(low_sum, all_high), Fraction(high_sum, all_low)))
        low_sum += terms[abs(x + 1)][0]
        high_sum += terms[abs(x + 1)][1]
    return cdf


@pytest.mark.parametrize(
    "grid", [GaussianGrid(0.5, 3, 9, 15), make_gaussian_grid(8.0, 5), GaussianGrid(0.1, 5, 20, 45)]
)
@pytest.mark.parametrize("bits", [PREFIX_BITS, 124])
def test_thresholds_by_integer_arithmetic(grid, bits):
    floors = grid.floors(bits)
    assert len(floors) == 2 * grid.bound
    for floor, (low, high) in zip(floors, enclosed_cdf(grid.rho, grid.steps, grid.bound), strict=True):
        assert math.floor(low * (1 << bits)) == math.floor(high * (1 << bits)) == floor


def test_what_lies_beyond_the_bound_is_counted_into_it():
    near, far = gaussian_cdf_floors(0.5, 4, 6, 60), gaussian_cdf_floors(0.5, 4, 40, 60)
    assert far[34:46] == near
    assert far == sorted(far)


def test_a_longer_prefix_begins_with_the_shorter():
    grid = make_gaussian_grid(0.5, 8)
    assert [floor >> 64 for floor in grid.floors(124)] == grid.floors(60)


@pytest.mark.parametrize("bits", [4, 5, 8])
@pytest.mark.parametrize("rho", [0.2, 0.5, 8.0, 1e3, 1e6])
def test_the_wire_carries_the_tails_and_no_finer_grid_would(rho, bits):
    def fits(steps):
        return steps + 2 * math.ceil(TAIL_SIGMAS * steps / math.sqrt(2 * rho)) <= (1 << bits) - 1

    if not fits(1):
        with pytest.raises(ConfigError, match="too small"):
            make_gaussian_grid(rho, bits)
        return
    grid = make_gaussian_grid(rho, bits)
    assert fits(grid.steps)
    assert not fits(grid.steps + 1) or grid.steps == (1 << bits) - 3
    sigma = grid.steps / math.sqrt(2 * rho)
    assert grid.tail >= TAIL_SIGMAS * sigma
    x = np.arange(-400, 401)
    weight = np.exp(-0.5 * (x / sigma) ** 2)
    bias = float((np.clip(x, -grid.tail, grid.bound) - x) @ weight / weight.sum())
    assert abs(bias) < 4e-4 * sigma


@pytest.mark.parametrize(("rho", "bits"), [(0.5, 3), (0.5, 9), (0.0, 8), (math.nan, 8), (math.inf, 8), (-1.0, 8)])
def test_what_is_no_grid_is_refused(rho, bits):
    with pytest.raises(ConfigError):
        make_gaussian_grid(rho, bits)


def draw(sampler, classes, rows):
    layout = lay_out([TensorSpec(name="x", shape=(1, rows, len(classes)), dtype="float32")])[0]
    noise, cells = np.empty(layout.size, np.int16), np.empty(layout.size, np.uint16)
    sampler.fetch(sampler.reserve_bytes(np.bincount(np.resize(classes, layout.size)).tolist()))
    sampler.draw(noise, cells, layout.tiled([index << FIRST_BITS for index in classes], np.uint16), layout)
    return noise.reshape(rows, len(classes))


@pytest.mark.parametrize(("rho", "bits"), [(0.5, 8), (0.5, 5), (50.0, 8)])
def test_chi_square_and_tails(rho, bits):
    grid = make_gaussian_grid(rho, bits)
    sampler = NoiseSampler([make_grid(4.0, 8), grid], entropy=os.urandom)  # beside another law
    noise = np.concatenate([draw(sampler, [1, 0, 1], 166_667)[:, [0, 2]].ravel() for _ in range(3)])
    outcomes = np.arange(-grid.bound, grid.bound + 1)
    cdf = [0.0, *(floor / 2**60 for floor in grid.floors(60)), 1.0]
    expected = np.diff(cdf) * noise.size
    seen = np.bincount(noise + grid.bound, minlength=outcomes.size)
    common = np.flatnonzero(expected >= 40)
    common = common[: common.size // 2 * 2]
    bins = np.append(seen[common], noise.size - seen[common].sum())
    means = np.append(expected[common], noise.size - expected[common].sum())
    half = float(((bins - means) ** 2 / means).sum()) / 2
    terms = [k * math.log(half) - math.lgamma(k + 1) - half for k in range((bins.size - 1) // 2)]
    assert sum(map(math.exp, terms)) > SIGNIFICANCE
    for at in range(1, outcomes.size):
        below = int(seen[:at].sum())
        assert noise.size * divergence(below / noise.size, cdf[at]) < math.log(4 * grid.bound / SIGNIFICANCE)


def divergence(share, probability):
    """Chernoff's exponent."""
    pairs = ((share, probability), (1 - share, 1 - probability))
    return sum(a * math.log(a / b) for a, b in pairs if a > 0)


def test_a_tie_is_broken_exactly():
    grid = make_gaussian_grid(0.5, 8)
    at = 3 + grid.bound
    longer = grid.floors(PREFIX_BITS + 64)[at] & ((1 << 64) - 1)
    for word, outcome in ((longer - 1, 3), (longer + 1, 4)):
        sampler = NoiseSampler([grid], entropy=lambda _, word=word: word.to_bytes(8, "little"))
        assert sampler.decide(0, grid.floors(PREFIX_BITS)[at]) == outcome


def bound_on(seen, trials, error, side):
    """The true probability is not beyond this, but for a chance of ``error`` (Chernoff)."""
    share = seen / trials
    near, far = share, float(side)
    for _ in range(60):
        middle = (near + far) / 2
        inside = 0 < middle < 1 and trials * divergence(share, middle) < math.log(1 / error)
        near, far = (middle, far) if inside else (near, middle)
    return far


def audit(claimed, real, epsilon):
    """A lower bound on δ at ``epsilon``, from what leaves for the two values that are furthest apart."""
    sampler = NoiseSampler([real], entropy=os.urandom)
    noise = draw(sampler, [0], 400_000)[:, 0].astype(int)
    value, other = np.split(noise, 2)
    value = np.clip(value + claimed.steps, -claimed.tail, claimed.bound)
    other = np.clip(other, -claimed.tail, claimed.bound)
    best, thresholds = 0.0, range(0, 2 * claimed.steps, 4)
    for threshold in thresholds:
        error = SIGNIFICANCE / (2 * len(thresholds))
        often = bound_on(int((value >= threshold).sum()), value.size, error, 0)
        rare = bound_on(int((other >= threshold).sum()), other.size, error, 1)
        best = max(best, often - math.exp(epsilon) * rare)
    return best


def test_the_claim_holds_and_half_the_noise_is_found():
    grid = make_gaussian_grid(0.5, 8)
    claim = zcdp_delta(0.5, 1.0)
    assert 0.1 < audit(grid, grid, 1.0) <= claim
    loud = GaussianGrid(4 * grid.rho, grid.steps, grid.tail, grid.wire_max)
    assert audit(grid, loud, 1.0) > claim


def test_laplace_is_one_law_among_others():
    grid = make_grid(1.0, 8)
    assert np.array_equal(
        LaplaceSampler([grid], entropy=os.urandom).first, NoiseSampler([grid], entropy=os.urandom).first
    )


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
def test_what_it_would_buy_at_equal_noise(epsilon):
    """Why no release uses it (docs/privacy.md).

    Of equal variance it costs more ρ than Laplace noise from a per-value ε of 3.9 on, and below that no less than
    half; and a single value it protects worse at any δ in use.
    """
    laplace, gaussian = float(rho_of_pure(epsilon)), epsilon**2 / 4  # variance 2·(B/ε)² = B²/(2ρ)
    assert (gaussian > laplace) == (epsilon > 3.83)
    assert gaussian >= laplace / 2
    assert zcdp_epsilon(gaussian, 1e-6) > 3 * epsilon

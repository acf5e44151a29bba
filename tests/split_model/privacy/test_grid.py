"""The wire carries the tails of the noise, or the grid is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from split_model.errors import ConfigError
from split_model.privacy.grid import TAIL_SCALES, least_epsilon, make_grid

BITS = st.integers(4, 8)


@dataclass(frozen=True)
class GridCost:
    """The error of a value on a grid, in units of the continuous Laplace mechanism of equal ε.

    ``relative_energy``: mean squared error over 2·(width/ε)², with values spread evenly over the clip
    range; below 1 is possible, as the discrete mechanism is the better one when L is near ε.
    ``rounding_share``: the part of that error that comes from rounding to L + 1 levels.
    ``rim_bias``: the mean error of a value at the rim of the clip range, in noise scales (width/ε).
    """

    relative_energy: float
    rounding_share: float
    rim_bias: float


def grid_cost(epsilon: float, bits: int) -> GridCost:
    """The cost of quantising and of the finite wire range at per-value ``epsilon``."""
    grid = make_grid(epsilon, bits)
    rate = epsilon / grid.steps
    noise = np.arange(-grid.bound, grid.bound + 1)
    tails = np.exp(-rate * np.abs(noise))
    probability = tails * np.tanh(rate / 2)
    probability[[0, -1]] = tails[0] / (1 + np.exp(-rate))  # all that lies beyond
    value = np.arange(grid.steps + 1)[:, None]
    error = np.clip(value + noise, -grid.tail, grid.wire_max - grid.tail) - value
    rounding = 1 / 12
    energy = float(np.mean((error.astype(float) ** 2) @ probability)) + rounding
    scale = grid.steps / epsilon
    return GridCost(
        relative_energy=energy / (2 * scale**2),
        rounding_share=rounding / energy,
        rim_bias=float(error[0] @ probability) / scale,
    )


@given(bits=BITS, epsilon=st.floats(0.9, 1e6))
def test_tails_fit_and_the_grid_is_the_finest(bits, epsilon):
    grid = make_grid(epsilon, bits)
    scale = grid.steps / Fraction(epsilon)
    assert grid.steps >= 1
    assert grid.tail >= TAIL_SCALES * scale
    assert grid.wire_max - grid.tail - grid.steps >= TAIL_SCALES * scale
    assert grid.steps + 2 * grid.tail <= grid.wire_max
    finer = grid.steps + 1
    assert finer + 2 * math.ceil(TAIL_SCALES * finer / Fraction(epsilon)) > grid.wire_max
    assert grid.bound >= grid.steps + grid.tail  # noise beyond it ends at a rim whatever the value was


@pytest.mark.parametrize("bits", [4, 5, 6, 7, 8])
def test_the_least_epsilon_is_the_least(bits):
    least = least_epsilon(bits)
    assert make_grid(least, bits).steps == 1
    with pytest.raises(ConfigError, match=r"too small for \d bits a value, whose least is"):
        make_grid(math.nextafter(least, 0), bits)


@pytest.mark.parametrize("bits", [3, 9])
def test_bits_out_of_range(bits):
    with pytest.raises(ConfigError, match="4 to 8 bits"):
        make_grid(16.0, bits)


@pytest.mark.parametrize(("epsilon", "bits"), [(1.0, 8), (16.0, 8), (16.0, 6), (32.0, 4)])
def test_grid_cost_agrees_with_simulated_noise(epsilon, bits):
    """An independent simulation with continuous values and NumPy's own geometric noise."""
    random = np.random.default_rng(5)
    grid = make_grid(epsilon, bits)
    stop = 1 - math.exp(-epsilon / grid.steps)
    draws = 400_000
    # half a step beyond the rims, so that every level stands for equally many values
    value = random.uniform(-0.5, grid.steps + 0.5, draws)
    noise = random.geometric(stop, draws) - random.geometric(stop, draws)
    sent = np.clip(np.rint(value) + noise, -grid.tail, grid.wire_max - grid.tail)
    energy = np.mean((sent - value) ** 2) / (2 * (grid.steps / epsilon) ** 2)
    assert grid_cost(epsilon, bits).relative_energy == pytest.approx(energy, rel=0.02)


def test_more_bits_mean_less_rounding_and_rims_are_hardly_biased():
    for epsilon in (1.0, 4.0, 16.0, 32.0):
        shares = [grid_cost(epsilon, bits).rounding_share for bits in range(4, 9)]
        assert shares == sorted(shares, reverse=True)
        assert shares[-1] < 0.005
        assert all(abs(grid_cost(epsilon, bits).rim_bias) < 0.0013 for bits in range(4, 9))

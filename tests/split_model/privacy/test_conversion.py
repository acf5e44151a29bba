"""The ρ of pure ε and the conversion to (ε, δ), recomputed here.

The figures in `REFERENCE` are those of another accountant; `test_oracles.py` asks it, and a second one, anew.
"""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from split_model.privacy import (
    ResponseEvent,
    whole_input,
)
from split_model.privacy.accountant import rho_of_pure
from split_model.privacy.conversion import epsilon_at_delta, zcdp_epsilon
from tests.split_model.privacy.inverse_conversion import zcdp_delta


def test_rho_takes_over_from_pure_epsilon_when_frames_are_many():
    rho = float(whole_input([ResponseEvent(groups=1, epsilon=1.0)]).pure_rho)
    assert epsilon_at_delta(1.0, rho, 1e-5) == 1.0
    assert epsilon_at_delta(10_000.0, 10_000 * rho, 1e-5) < 6000


@given(st.floats(1e-3, 50.0), st.floats(1.0001, 1e3))
def test_the_rho_of_pure_epsilon_bounds_every_renyi_divergence(epsilon, alpha):
    """Of randomised response, which has the largest of all."""
    often = -math.log1p(math.exp(-epsilon))
    rare = often - epsilon
    terms = [alpha * often + (1 - alpha) * rare, alpha * rare + (1 - alpha) * often]
    renyi = (max(terms) + math.log1p(math.exp(min(terms) - max(terms)))) / (alpha - 1)
    assert renyi <= alpha * float(rho_of_pure(epsilon)) * (1 + 1e-9) + 1e-9
    assert rho_of_pure(epsilon) <= min(Fraction(epsilon), Fraction(epsilon) ** 2 / 2)


@given(st.floats(1e-4, 1e5), st.floats(1e-12, 0.4))
def test_the_conversion_is_tighter_than_the_simple_one_and_its_own_inverse(rho, delta):
    epsilon = zcdp_epsilon(rho, delta)
    assert epsilon <= rho + 2 * math.sqrt(rho * math.log(1 / delta)) + 1e-9 * (1 + rho)
    assert zcdp_delta(rho, epsilon) <= delta * (1 + 1e-6)
    if epsilon > 1e-3:
        assert zcdp_delta(rho, epsilon * (1 - 1e-4)) > delta * (1 - 1e-6)


@pytest.mark.parametrize(("rho", "delta"), [(-1.0, 0.1), (1.0, -0.1), (1.0, 1.0)])
def test_what_is_no_budget_is_refused(rho, delta):
    with pytest.raises(ValueError, match="rho"):
        zcdp_epsilon(rho, delta)


def test_the_ends():
    assert zcdp_epsilon(0.0, 0.0) == zcdp_delta(0.0, 0.0) == 0.0
    assert zcdp_epsilon(1.0, 0.0) == zcdp_epsilon(math.inf, 0.1) == math.inf
    assert zcdp_delta(1e9, 0.0) == zcdp_delta(math.inf, 1.0) == 1.0


#: (ρ, δ, ε): zCDP to approximate DP by opendp 0.16.0, ``zCDP_to_approxDP``.
REFERENCE = [
    (0.01, 1e-5, 0.545725548),
    (0.1, 1e-6, 2.141938928),
    (0.5, 1e-5, 4.728386985),
    (1.0, 1e-9, 9.521463672),
    (10.0, 1e-6, 32.221660949),
    (300.0, 1e-5, 414.813579339),
]


@pytest.mark.parametrize(("rho", "delta", "epsilon"), REFERENCE)
def test_the_conversion_equals_figures_of_opendp(rho, delta, epsilon):
    assert zcdp_epsilon(rho, delta) == pytest.approx(epsilon, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
def test_gaussian_noise_would_cost_more(epsilon):
    """Why no release uses it (docs/privacy.md).

    Of equal variance it costs more ρ than Laplace noise from a per-value ε of 3.9 on, and below that no less than
    half; and a single value it protects worse at any δ in use.
    """
    laplace, gaussian = float(rho_of_pure(epsilon)), epsilon**2 / 4  # variance 2·(B/ε)² = B²/(2ρ)
    assert (gaussian > laplace) == (epsilon > 3.83)
    assert gaussian >= laplace / 2
    assert zcdp_epsilon(gaussian, 1e-6) > 3 * epsilon

"""Both units of every event, composition, and the conversions, recomputed here.

The figures in `REFERENCE` are those of another accountant; `test_oracles.py` asks it, and a second one, anew.
"""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from split_model.privacy import (
    ChannelNoise,
    ChannelRho,
    GaussianEvent,
    LaplaceEvent,
    ResponseEvent,
    per_value,
    whole_input,
)
from split_model.privacy.accountant import rho_of_pure
from split_model.privacy.conversion import zcdp_delta, zcdp_epsilon
from split_model.privacy.guarantee import Guarantee

LAPLACE = LaplaceEvent(channels=(ChannelNoise(100, 2.0), ChannelNoise(300, 6.0)))
GAUSSIAN = GaussianEvent(channels=(ChannelRho(100, 0.5), ChannelRho(10, 0.75)))
RESPONSE = ResponseEvent(groups=4, epsilon=2.0)


def test_both_units_of_every_event():
    assert (per_value(LAPLACE).epsilon, whole_input([LAPLACE]).epsilon) == (6.0, 2000.0)
    assert (per_value(GAUSSIAN).rho, whole_input([GAUSSIAN]).rho) == (0.75, 57.5)
    assert per_value(RESPONSE) == whole_input([RESPONSE])
    assert whole_input([RESPONSE]).epsilon == 8.0
    assert whole_input([GAUSSIAN]).epsilon == math.inf


def test_frames_compose_and_a_scene_sent_again_is_paid_for_again():
    frame = whole_input([GAUSSIAN])
    assert whole_input([GAUSSIAN] * 3) == frame.times(3) == frame + frame + frame
    assert whole_input([LAPLACE, RESPONSE]).epsilon == 2008.0
    assert whole_input([]).epsilon == whole_input([]).rho == whole_input([]).epsilon_at(1e-6) == 0.0
    mixed = whole_input([RESPONSE, GAUSSIAN])
    assert mixed.epsilon == math.inf
    assert mixed.epsilon_at(1e-6) <= 8.0 + zcdp_epsilon(57.5, 1e-6) + 1e-9


def test_rho_takes_over_from_pure_epsilon_when_frames_are_many():
    frame = whole_input([ResponseEvent(groups=1, epsilon=1.0)])
    assert frame.epsilon_at(1e-5) == 1.0
    assert frame.times(10_000).epsilon_at(1e-5) < 6000 < frame.times(10_000).epsilon


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


def test_guarantees_are_sums_without_rounding():
    tenth = Guarantee(pure_epsilon=Fraction(1, 10))
    assert sum((tenth for _ in range(10)), Guarantee()).pure_epsilon == 1

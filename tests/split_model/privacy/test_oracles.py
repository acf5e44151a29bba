"""Our accounting against OpenDP's and dp-accounting's: equal to the one, never below the exact loss of the other.

Both are large, so this is skipped where they are not installed; ``make test-oracles`` installs and runs them.
"""

from __future__ import annotations

import math

import pytest

from split_model.bundle import ChannelCalibration, TensorSpec
from split_model.privacy import (
    ChannelNoise,
    LaplaceEvent,
    NoisePlan,
    NoiseSpec,
    ResponseEvent,
    whole_input,
    whole_input_epsilon,
)
from split_model.privacy.accountant import round_up
from split_model.privacy.conversion import epsilon_at_delta, zcdp_epsilon
from tests.split_model.privacy.inverse_conversion import zcdp_delta

opendp = pytest.importorskip("opendp.prelude", reason="opendp is not installed; run 'make test-oracles'")
pld = pytest.importorskip("dp_accounting.pld", reason="dp-accounting is not installed; run 'make test-oracles'")
dp = pytest.importorskip("dp_accounting")
rdp = pytest.importorskip("dp_accounting.rdp")
opendp.enable_features("contrib")
losses = pld.privacy_loss_distribution

RHOS = [10**exponent for exponent in (-4, -3, -2, -1, -0.5, 0, 0.5, 1, 2, 3, 4)]
DELTAS = [1e-2, 1e-4, 1e-6, 1e-9, 1e-12]


def price(event, frames, delta):
    """Our ε at ``delta`` of so many frames, as the ledger states it."""
    total = whole_input([event] * frames)
    return epsilon_at_delta(round_up(total.pure_epsilon), round_up(total.pure_rho), delta)


def opendp_curve(rho):
    """OpenDP's (ε, δ) curve of the Gaussian mechanism that is ρ-zCDP."""
    space = opendp.vector_domain(opendp.atom_domain(T=int)), opendp.l2_distance(T=float)
    gaussian = opendp.m.make_gaussian(*space, scale=math.sqrt(1 / (2 * rho)))
    return opendp.c.make_zCDP_to_approxDP(gaussian).map(1.0)


@pytest.mark.parametrize("rho", RHOS)
def test_the_conversion_from_zcdp_equals_opendp(rho):
    curve = opendp_curve(rho)
    for delta in DELTAS:
        theirs = curve.epsilon(delta)
        assert zcdp_epsilon(rho, delta) == pytest.approx(theirs, rel=1e-6, abs=1e-6)
        if theirs > 1e-3:
            assert zcdp_delta(rho, theirs) == pytest.approx(delta, rel=1e-4)


@pytest.mark.parametrize("rho", [0.05, 0.5, 5.0])
def test_the_conversion_is_not_below_renyi_accounting(rho):
    """dp-accounting's Rényi accountant takes the best of some orders, so it can only be above the optimum."""
    orders = [1 + 1.02**k * 1e-3 for k in range(900)]
    accountant = rdp.RdpAccountant(orders).compose(dp.ZCDpEvent(rho))
    for delta in (1e-3, 1e-6):
        assert zcdp_epsilon(rho, delta) == pytest.approx(accountant.get_epsilon(delta), rel=1e-3)
        assert zcdp_epsilon(rho, delta) <= accountant.get_epsilon(delta) + 1e-9


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 4.0])
def test_opendp_states_the_same_epsilon_for_discrete_laplace_noise(epsilon):
    """A value that moves by L at most, under noise of scale L/ε: ε, as our events say."""
    steps = 24
    space = opendp.vector_domain(opendp.atom_domain(T=int)), opendp.l1_distance(T=int)
    theirs = opendp.m.make_laplace(*space, scale=steps / epsilon).map(steps)
    assert theirs == pytest.approx(whole_input_epsilon(LaplaceEvent(channels=(ChannelNoise(1, epsilon),))))


@pytest.mark.parametrize("frames", [1, 5, 40])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
def test_never_below_the_exact_loss_of_the_discrete_gaussian(frames, sigma):
    """Noise of this σ on a value that moves by 1 at most is 1/(2σ²)-zCDP."""
    rho = frames / (2 * sigma**2)
    discrete = losses.from_discrete_gaussian_mechanism(
        sigma, value_discretization_interval=1e-3, pessimistic_estimate=False
    ).self_compose(frames)
    for delta in (1e-3, 1e-6):
        assert zcdp_epsilon(rho, delta) >= discrete.get_epsilon_for_delta(delta) - 1e-9


@pytest.mark.parametrize("frames", [1, 5, 40])
@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_never_below_the_exact_loss_of_pure_mechanisms(frames, epsilon):
    fine = {"value_discretization_interval": 1e-4, "pessimistic_estimate": False}
    steps = 7
    cases = [
        (LaplaceEvent(channels=(ChannelNoise(1, epsilon),)),
         losses.from_discrete_laplace_mechanism(epsilon / steps, sensitivity=steps, **fine)),
        (ResponseEvent(groups=1, epsilon=epsilon),
         losses.from_randomized_response(5 / (math.exp(epsilon) + 4), 5, **fine)),
    ]  # fmt: skip
    for event, loss in cases:
        exact = loss.self_compose(frames)
        for delta in (1e-3, 1e-6, 1e-9):
            assert price(event, frames, delta) >= exact.get_epsilon_for_delta(delta) - 1e-9


def test_never_below_the_exact_loss_of_a_whole_plan():
    """A real plan with channels of unequal share: dp-accounting composes every value of the frame."""
    tensor = TensorSpec(name="x", shape=(1, 4, 3), dtype="float32")
    known = ChannelCalibration(
        clip_low=(0.0, -1.0, 0.0), clip_high=(1.0, 1.0, 4.0), rank=(1.0, 2.0, 4.0), weight=(1.0, 0.1, 3.0)
    )
    for allocation in ("uniform", "rank", "optimal"):
        plan = NoisePlan.make(NoiseSpec(epsilon=0.5, allocation=allocation), [tensor], [known])
        exact = None
        for grid in (plan.classes[index] for index in plan.class_of[0]):
            loss = losses.from_discrete_laplace_mechanism(
                grid.epsilon / grid.steps,
                sensitivity=grid.steps,
                value_discretization_interval=1e-3,
                pessimistic_estimate=False,
            ).self_compose(4)
            exact = loss if exact is None else exact.compose(loss)
        assert plan.whole_input_epsilon == pytest.approx(6.0, abs=1e-6)
        for frames, delta in ((1, 1e-3), (1, 1e-6), (8, 1e-6)):
            whole = exact.self_compose(frames) if frames > 1 else exact
            assert price(plan.event(), frames, delta) >= whole.get_epsilon_for_delta(delta) - 1e-9

"""Two units, exact sums."""

from __future__ import annotations

from fractions import Fraction

from split_model.privacy import (
    ChannelNoise,
    LaplaceEvent,
    ResponseEvent,
    per_value_epsilon_max,
    per_value_epsilon_mean,
    whole_input,
    whole_input_epsilon,
)
from split_model.privacy.accountant import rho_of_pure

EVENT = LaplaceEvent(channels=(ChannelNoise(100, 2.0), ChannelNoise(300, 6.0)))
RESPONSE = ResponseEvent(groups=4, epsilon=2.0)


def test_both_units_of_one_frame():
    assert per_value_epsilon_max(EVENT) == 6.0
    assert per_value_epsilon_mean(EVENT) == 5.0
    assert whole_input_epsilon(EVENT) == 2000.0


def test_values_compose_in_sequence_not_in_parallel():
    one = LaplaceEvent(channels=(ChannelNoise(1, 2.0),))
    assert whole_input_epsilon(LaplaceEvent(channels=one.channels * 7)) == 14.0


def test_sums_never_understate():
    tenth = LaplaceEvent(channels=(ChannelNoise(3, 0.1),))
    assert Fraction(whole_input_epsilon(tenth)) >= 3 * Fraction(0.1)


def test_every_event_has_a_whole_input_price():
    assert whole_input([EVENT]).pure_epsilon == 2000
    assert whole_input([RESPONSE]).pure_epsilon == 8
    assert whole_input([RESPONSE]).pure_rho == 4 * rho_of_pure(2.0)


def test_frames_compose_and_a_scene_sent_again_is_paid_for_again():
    assert whole_input([EVENT, RESPONSE]).pure_epsilon == 2008
    once, thrice = whole_input([EVENT]), whole_input([EVENT] * 3)
    assert (thrice.pure_epsilon, thrice.pure_rho) == (3 * once.pure_epsilon, 3 * once.pure_rho)
    assert whole_input([]).pure_epsilon == whole_input([]).pure_rho == 0


def test_sums_are_not_rounded():
    tenth = ResponseEvent(groups=1, epsilon=0.1)
    assert whole_input([tenth] * 10).pure_epsilon == 10 * Fraction(0.1)

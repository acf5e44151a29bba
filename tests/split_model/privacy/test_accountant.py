"""Two units, exact sums."""

from __future__ import annotations

from split_model.privacy import (
    ChannelNoise,
    LaplaceEvent,
    composed_whole_input_epsilon,
    per_value_epsilon_max,
    per_value_epsilon_mean,
    whole_input_epsilon,
)

EVENT = LaplaceEvent(channels=(ChannelNoise(100, 2.0), ChannelNoise(300, 6.0)))


def test_both_units_of_one_frame():
    assert per_value_epsilon_max(EVENT) == 6.0
    assert per_value_epsilon_mean(EVENT) == 5.0
    assert whole_input_epsilon(EVENT) == 2000.0


def test_values_compose_in_sequence_not_in_parallel():
    one = LaplaceEvent(channels=(ChannelNoise(1, 2.0),))
    assert whole_input_epsilon(LaplaceEvent(channels=one.channels * 7)) == 14.0


def test_frames_add_up():
    assert composed_whole_input_epsilon([EVENT] * 3) == 6000.0
    assert composed_whole_input_epsilon([]) == 0.0


def test_sums_never_understate():
    tenth = LaplaceEvent(channels=(ChannelNoise(3, 0.1),))
    from fractions import Fraction

    assert Fraction(whole_input_epsilon(tenth)) >= 3 * Fraction(0.1)
    assert Fraction(composed_whole_input_epsilon([tenth] * 10)) >= 30 * Fraction(0.1)

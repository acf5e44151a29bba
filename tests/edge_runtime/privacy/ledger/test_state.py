"""Budgets and windows, decided on values alone."""

from __future__ import annotations

from fractions import Fraction

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.privacy.ledger import Amount, Limits, Now, epsilon_units, of_event
from edge_runtime.privacy.ledger.state import (
    MAX_RESERVES,
    MAX_SUBJECTS,
    added,
    advanced,
    affordable,
    new_state,
    opened,
    refusal,
    rolled,
    with_reserves,
)
from edge_runtime.privacy.ledger.store import SLOT_BYTES, encode
from split_model.privacy import ChannelNoise, LaplaceEvent

BOOT = Now("boot", 100.0)
EMPTY = new_state(BOOT, since_unix_s=0)
ONE = Amount(epsilon_units(1.0), 7, 1, 0)


def later(seconds: float, boot: str = "boot") -> Now:
    return Now(boot, BOOT.boot_s + seconds)


def test_small_charges_are_not_lost_in_large_totals():
    """2^20 charges of 2^-30 on top of 2^53: as floats they would vanish."""
    tiny = LaplaceEvent(channels=(ChannelNoise(values=1, epsilon=2.0**-30),))
    total = Amount(epsilon_units(2.0**53)) + of_event(tiny) * (1 << 20)
    assert total.epsilon - epsilon_units(2.0**53) == epsilon_units(2.0**-10)


@given(st.floats(1e-300, 1e6), st.integers(1, 10**6))
def test_a_cost_is_rounded_up_and_a_budget_down(epsilon, values):
    cost = of_event(LaplaceEvent(channels=(ChannelNoise(values=values, epsilon=epsilon),)))
    assert Fraction(cost.epsilon, 1 << 40) >= values * Fraction(epsilon)
    assert cost.epsilon >= 1
    assert Fraction(epsilon_units(epsilon), 1 << 40) <= Fraction(epsilon)
    assert cost.rho <= cost.epsilon + values  # tanh < 1; each value's bound is rounded up in the 40th digit


def test_a_budget_is_spent_to_the_last_unit_and_no_further():
    limits = Limits(budget=3 * ONE.epsilon)
    ledger_state = added(EMPTY, ONE * 2, "cam")
    assert refusal(ledger_state, ONE, "cam", limits) is None
    assert affordable(ledger_state, ONE, "cam", limits) == 1
    refused = refusal(ledger_state, ONE + Amount(1), "cam", limits)
    assert refused is not None
    assert refused.why == "budget"
    assert "1 whole-input epsilon left" in refused.text
    assert refusal(added(ledger_state, ONE, "cam"), Amount(1), "cam", limits) is not None


def test_each_subject_has_its_own_budget_and_the_device_the_sum():
    limits = Limits(subject_budget=2 * ONE.epsilon)
    ledger_state = added(added(EMPTY, ONE * 2, "door"), ONE, "yard")
    assert refusal(ledger_state, ONE, "door", limits).why == "subject"
    assert refusal(ledger_state, ONE, "yard", limits) is None
    assert ledger_state.total == ONE * 3


def test_features_without_protection_fit_no_budget_and_are_counted_without_one():
    bare = Amount(releases=1, unprotected=1)
    assert refusal(EMPTY, bare, "cam", Limits(budget=10**30)).why == "unprotected"
    assert refusal(EMPTY, bare, "cam", Limits()) is None
    assert added(EMPTY, bare, "cam").subjects["cam"].unprotected == 1


def test_the_subjects_have_an_end_and_all_of_them_fit_a_slot():
    ledger_state = EMPTY
    huge = Amount(1 << 100, 1 << 100, 1 << 60, 1 << 60)
    for number in range(MAX_SUBJECTS):
        assert refusal(ledger_state, huge, f"{number:064}", Limits()) is None
        ledger_state = with_reserves(ledger_state, {f"{number:064}": huge * 64})
    full = msgspec.structs.replace(
        ledger_state, reserved={f"{number:064}": huge * 64 for number in range(MAX_RESERVES)}
    )
    assert len(encode(full, (1 << 64) - 1)) <= SLOT_BYTES
    assert refusal(ledger_state, huge, "one more", Limits()).why == "subjects"
    assert refusal(ledger_state, huge, f"{0:064}", Limits()) is None


WINDOW = Limits(window_s=60.0, window_budget=2 * ONE.epsilon)


def test_a_window_begins_with_its_first_release_and_ends_in_measured_time():
    begun = added(advanced(EMPTY, later(50)), ONE * 2, "cam")
    almost = rolled(advanced(begun, later(109)), WINDOW)
    assert refusal(almost, ONE, "cam", WINDOW).why == "window"
    over = rolled(advanced(begun, later(110)), WINDOW)
    assert refusal(over, ONE, "cam", WINDOW) is None
    assert over.total == ONE * 2  # the lifetime's total stays


def test_a_boot_credits_no_time():
    begun = added(EMPTY, ONE * 2, "cam")
    rebooted = opened(begun, Now("next", 10_000.0))
    assert rebooted.window_age_s == 0.0
    assert refusal(rolled(rebooted, WINDOW), ONE, "cam", WINDOW).why == "window"
    assert refusal(rolled(advanced(rebooted, Now("next", 10_060.0)), WINDOW), ONE, "cam", WINDOW) is None


def test_a_boot_clock_that_goes_back_credits_no_time_twice():
    """A virtual machine taken back to a snapshot."""
    begun = advanced(added(EMPTY, ONE * 2, "cam"), later(50))
    again = advanced(advanced(begun, later(10)), later(19))
    assert again.window_age_s == 59
    assert refusal(rolled(again, WINDOW), ONE, "cam", WINDOW).why == "window"


def test_what_was_reserved_and_not_given_back_is_spent():
    ledger_state = opened(with_reserves(EMPTY, {"cam": ONE * 64}), later(1))
    assert ledger_state.total == ledger_state.subjects["cam"] == ONE * 64
    assert ledger_state.reserved == {}
    assert ledger_state.window_epsilon == 64 * ONE.epsilon

"""What is said of the ledger: spent, left, and until when."""

from __future__ import annotations

import pytest

from edge_runtime.privacy.ledger import Amount, Limits, Now, epsilon_units
from edge_runtime.privacy.ledger.state import added, advanced, new_state, opened, with_reserves
from edge_runtime.privacy.ledger.status import Prices, duration, ledger_status, rows


def as_text(status):
    return "\n".join(f"{label}  {value}" for label, value in rows(status))


START = Now("boot", 1000.0)
ONE = Amount(epsilon_units(1.0), epsilon_units(0.25), 1, 0)


def later(seconds):
    return Now("boot", 1000.0 + seconds)


def ledger_state():
    """40 spent before, then 60 frames in an hour for the door, and 10 reserved."""
    before = opened(added(new_state(START, since_unix_s=7), ONE * 40, "yard"), START)
    return with_reserves(advanced(added(before, ONE * 60, "door"), later(3600)), {"door": ONE * 10})


def test_spent_left_and_when_at_this_rate():
    status = ledger_status(ledger_state(), Limits(budget=epsilon_units(230.0)), later(4000))
    assert status.spent.whole_input_epsilon == 110.0
    assert status.reserved.whole_input_epsilon == 10.0
    assert status.rate_per_s == pytest.approx(60 / 3600)
    assert status.lifetime.left == 120.0
    assert status.lifetime.spent_in_s == pytest.approx(2 * 3600)
    assert {name: amount.releases for name, amount in status.subjects.items()} == {"yard": 40, "door": 70}
    assert "2.0 hours at this rate" in as_text(status)


def test_a_rate_is_the_subject_s_that_is_being_served():
    status = ledger_status(ledger_state(), Limits(subject_budget=epsilon_units(100.0)), later(4000))
    assert status.subject_budgets["door"].spent_in_s == pytest.approx(30 * 60)
    assert status.subject_budgets["yard"].spent_in_s is None
    assert status.lifetime is None
    assert "unlimited" in as_text(status)


def test_no_rate_is_told_of_a_run_that_only_began():
    young = with_reserves(opened(ledger_state(), later(5000)), {"door": ONE * 10})
    status = ledger_status(young, Limits(budget=epsilon_units(1e6)), later(9000))
    assert status.rate_per_s is None
    assert status.lifetime.spent_in_s is None


def test_many_small_releases_cost_less_at_a_small_delta():
    status = ledger_status(ledger_state(), Limits(), later(4000))
    assert status.spent.whole_input_epsilon_at_delta < status.spent.whole_input_epsilon
    one = ledger_status(added(new_state(START, since_unix_s=0), ONE, "door"), Limits(), START)
    assert one.spent.whole_input_epsilon_at_delta <= one.spent.whole_input_epsilon == 1.0


def test_the_window_and_its_end():
    limits = Limits(window_s=7200.0, window_budget=epsilon_units(200.0))
    window = ledger_status(ledger_state(), limits, later(4000)).window
    assert (window.left, window.next_in_s) == (90.0, 3200.0)
    over = ledger_status(ledger_state(), limits, later(8000)).window
    assert (over.left, over.next_in_s) == (200.0, 0.0)


def test_a_spent_budget_is_called_so():
    assert "0 of 50 left: spent" in as_text(
        ledger_status(ledger_state(), Limits(budget=epsilon_units(50.0)), START)
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (119.0, "119 s"), (120.0, "2.0 minutes"), (1e6, "11.6 days"), (1e9, "31.7 years")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_budget_that_pays_for_no_frame_says_so():
    prices = Prices([ONE * 50, ONE * 30], ["door", "yard"])
    limits = Limits(budget=epsilon_units(125.0), subject_budget=epsilon_units(69.0))
    status = ledger_status(ledger_state(), limits, later(4000), prices)
    # The reserve is still to be spent: 100 of 125 are gone, and 60 of the door's 69.
    assert status.shortfalls == ("privacy.whole_input_budget: 25 whole-input epsilon left, one frame costs 30",)
    assert "TOO LITTLE: privacy.whole_input_budget: 25 whole-input epsilon left" in as_text(status)
    more = Limits(budget=epsilon_units(130.0), subject_budget=epsilon_units(69.0))
    assert ledger_status(ledger_state(), more, later(4000), prices).shortfalls == (
        "privacy.subject_budget of 'door': 9 whole-input epsilon left, one frame costs 30",
        "privacy.subject_budget of 'yard': 29 whole-input epsilon left, one frame costs 30",
    )
    assert ledger_status(ledger_state(), Limits(), later(4000), prices).shortfalls == ()

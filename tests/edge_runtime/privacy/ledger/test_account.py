"""What a run says when something can no longer be paid for: once, and not once a camera."""

from __future__ import annotations

import pytest

from edge_runtime.privacy.ledger import Account, Amount, Ledger, Limits, Now, epsilon_units

ONE = Amount(epsilon_units(1.0), 3, 1, 0)


@pytest.mark.parametrize(
    ("limits", "times"),
    [
        ({"budget": 2 * ONE.epsilon}, 1),  # the device's: news once
        ({"subject_budget": ONE.epsilon}, 2),  # of each camera by itself
        ({"window_s": 60.0, "window_budget": 2 * ONE.epsilon}, 1),
    ],
)
def test_a_spent_budget_is_told_once_for_whom_it_holds(tmp_path, caplog, limits, times):
    moment = [1.0]
    ledger = Ledger.open_in(tmp_path, Limits(**limits), now=lambda: Now("boot", moment[0]))
    account = Account(ledger, costs={3: ONE, 7: ONE})

    def told():
        return sum("any more" in message for message in caplog.messages)

    for number in range(12):
        subject = ("door", "yard")[number % 2]
        if account.payable({3, 7}, subject):
            assert account.charge(3, subject)
    assert told() == times
    if "window_s" in limits:  # a new window is news again when it is spent
        moment[0] += 60.0
        for number in range(6):
            subject = ("door", "yard")[number % 2]
            if account.payable({3, 7}, subject):
                assert account.charge(3, subject)
        assert told() == 2 * times
    account.close()

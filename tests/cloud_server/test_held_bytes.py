"""What each device may hold: all together under the limit, nobody all of it, and room for who comes next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_server.held_bytes import HeldBytes

LIMIT = 1000


def take_all(held: HeldBytes, keys: list[str], size: int) -> None:
    """Every key asks in turn, until nobody gets anything."""
    took = True
    while took:
        took = False
        for key in keys:
            if held.reason_against(key, size, limit_bytes=LIMIT) is None:
                held.change(key, size)
                took = True


@pytest.mark.parametrize(("greedy", "each"), [(1, 500), (3, 250), (4, 200), (9, 100)])
def test_greedy_devices_share_equally_and_leave_one_share_free(greedy, each):
    held, keys = HeldBytes(), [f"key{number}" for number in range(greedy)]
    take_all(held, keys, 10)
    assert [held.of(key) for key in keys] == [each] * greedy
    assert held.reason_against("polite", each, limit_bytes=LIMIT) is None


def test_who_holds_nothing_may_take_whatever_is_free():
    held = HeldBytes()
    assert held.reason_against("a", LIMIT, limit_bytes=LIMIT) is None
    assert held.reason_against("a", LIMIT + 1, limit_bytes=LIMIT) is not None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 400), st.booleans()), max_size=60))
def test_the_totals_are_those_of_what_is_held_and_stay_under_the_limit(steps):
    held = HeldBytes()
    model: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    for key, size, gives_back in steps:
        if gives_back and model[key]:
            held.change(key, -model[key].pop())
        elif held.reason_against(key, size, limit_bytes=LIMIT) is None:
            held.change(key, size)
            model[key].append(size)
        assert {key: held.of(key) for key in model} == {key: sum(sizes) for key, sizes in model.items()}
        assert held.total == sum(map(sum, model.values())) <= LIMIT

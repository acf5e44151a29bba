"""Limits that users share: nobody keeps the others out."""

from __future__ import annotations

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.local_api.shares import Shares, Turns

MOVES = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 20), st.booleans()), max_size=80)


@given(st.integers(1, 100), MOVES)
def test_the_limit_holds_and_what_one_alone_can_take_is_half(
    limit: int, moves: list[tuple[int, int, bool]]
) -> None:
    shares, held = Shares(limit), collections.Counter[int]()
    for user, amount, more in moves:
        if more and shares.fits(user, amount):
            free = limit - held.total()
            shares.take(user, amount)
            held[user] += amount
            assert held[user] <= free
        elif not more and held[user] >= amount:
            shares.give(user, amount)
            held[user] -= amount
        assert shares.total == held.total() <= limit
        assert all(shares.held(user) == held[user] for user in held)
        newcomer = 99
        assert shares.fits(newcomer) == (held.total() < limit)


@pytest.mark.parametrize(
    ("limit", "taken"), [(1, [1]), (2, [1, 1]), (32, [16, 8, 4, 2, 1, 1]), (64, [32, 16, 8, 4, 2])]
)
def test_each_user_who_takes_all_he_can_leaves_half_to_the_next(limit: int, taken: list[int]) -> None:
    shares = Shares(limit)
    for user, expected in enumerate(taken):
        while shares.fits(user):
            shares.take(user)
        assert shares.held(user) == expected


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=80))
def test_users_take_turns_and_each_keeps_his_order(moves: list[tuple[int, bool]]) -> None:
    turns: Turns[tuple[int, int]] = Turns()
    put: dict[int, list[int]] = collections.defaultdict(list)
    served: dict[int, int] = {}  # since when a user has waited, in takes
    for number, (user, more) in enumerate(moves):
        if more:
            if not put[user]:
                served[user] = 0
            turns.put(user, (user, number))
            put[user].append(number)
        elif len(turns):
            whose, first = turns.take()
            assert first == put[whose].pop(0)
            waited = {user: served[user] + 1 for user, waiting in put.items() if waiting and user != whose}
            served |= waited | {whose: 0}
            assert max(waited.values(), default=0) <= 3  # the other users, once each
        assert len(turns) == sum(map(len, put.values()))
    if not len(turns):
        with pytest.raises(LookupError):
            turns.take()

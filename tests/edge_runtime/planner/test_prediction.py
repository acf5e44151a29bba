"""What is predicted of a split, for any board and any link."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edge_runtime.link.estimator import LinkEstimate
from edge_runtime.planner.prediction import Conditions, SplitProfile, predict

seconds = st.floats(0.001, 3.0)
links = st.builds(
    LinkEstimate,
    uplink_bytes_s=st.floats(1e3, 1e7),
    rtt_s=st.none() | st.floats(0.0, 0.5),
    rate_spread=st.just(0.0) | st.floats(0.05, 1.5),
    age_s=st.just(0.0),
    silent_s=st.just(0.0) | st.floats(0.0, 3.0),
)
conditions = st.builds(
    Conditions,
    link=links,
    link_up=st.just(True),
    load=st.floats(0.5, 4.0),
    queue_s=st.floats(0.0, 0.2),
    local_wait_s=st.just(0.0) | st.floats(0.0, 1.0),
    may_hedge=st.booleans(),
    next_frame_s=st.floats(0.0, 2.0),
)
profiles = st.builds(
    SplitProfile,
    split=st.just(1),
    head_s=seconds,
    release_s=st.floats(0.0, 0.1),
    payload_bytes=st.integers(100, 200_000),
    tail_s=st.floats(0.0, 0.1),
    local_tail_s=st.none() | seconds,
)


@given(profiles, conditions, seconds)
def test_the_parts_are_the_whole(profile: SplitProfile, seen: Conditions, local_s: float) -> None:
    found = predict(profile, seen, local_s=local_s)
    parts_s = found.wait_s + found.head_s + found.transfer_s + found.round_trip_s + found.server_s
    assert parts_s == pytest.approx(found.total_s)
    assert 0.0 <= found.doubt <= 1.0


@given(profiles, conditions, seconds)
def test_a_slower_link_a_busier_board_and_more_bytes_never_make_it_faster(
    profile: SplitProfile, seen: Conditions, local_s: float
) -> None:
    seen = replace(seen, may_hedge=False)
    found = predict(profile, seen, local_s=local_s).total_s
    assert seen.link.uplink_bytes_s is not None
    slower = replace(seen, link=replace(seen.link, uplink_bytes_s=seen.link.uplink_bytes_s / 2))
    assert predict(profile, slower, local_s=local_s).total_s >= found - 1e-9
    assert predict(profile, replace(seen, load=2 * seen.load), local_s=local_s).total_s >= found - 1e-9
    larger = replace(profile, payload_bytes=2 * profile.payload_bytes)
    assert predict(larger, seen, local_s=local_s).total_s >= found - 1e-9


@given(profiles, conditions, seconds)
def test_a_hedge_is_chosen_only_where_it_pays(profile: SplitProfile, seen: Conditions, local_s: float) -> None:
    found = predict(profile, seen, local_s=local_s)
    alone = predict(profile, replace(seen, may_hedge=False), local_s=local_s)
    assert not alone.hedged
    assert found.cost_s("latency") <= alone.cost_s("latency")
    if found.hedged:
        assert seen.may_hedge
        assert profile.local_tail_s is not None
        assert found.price_s > 0.0
        assert found.doubt <= 0.5  # what is released is to be of use
        assert found.total_s <= max(found.head_s, seen.local_wait_s) + profile.local_tail_s * seen.load + 1e-9


@given(profiles, conditions, seconds)
def test_a_rescue_that_goes_on_behind_the_head_is_never_worse_than_one_that_begins_anew(
    profile: SplitProfile, seen: Conditions, local_s: float
) -> None:
    anew = predict(replace(profile, local_tail_s=None), seen, local_s=local_s)
    behind = predict(replace(profile, local_tail_s=0.5 * local_s / seen.load), seen, local_s=local_s)
    assert behind.cost_s("latency") <= anew.cost_s("latency") + 1e-9


@given(profiles, conditions, seconds)
def test_a_hedge_costs_more_while_the_next_frame_would_find_the_interpreter_taken(
    profile: SplitProfile, seen: Conditions, local_s: float
) -> None:
    at_once = predict(profile, replace(seen, next_frame_s=0.0), local_s=local_s)
    later = predict(profile, replace(seen, next_frame_s=10.0), local_s=local_s)
    assert later.cost_s("latency") <= at_once.cost_s("latency")
    assert later.hedged or not at_once.hedged


@given(profiles, conditions)
def test_a_link_that_is_down_is_never_fast(profile: SplitProfile, seen: Conditions) -> None:
    assert predict(profile, replace(seen, link_up=False)).total_s == math.inf
    unknown = replace(seen, link=replace(seen.link, uplink_bytes_s=None))
    assert predict(profile, unknown).total_s == math.inf


def link(mbit: float, *, spread: float = 0.0, silent_s: float = 0.0) -> LinkEstimate:
    return LinkEstimate(mbit * 125_000, 0.04, spread, 0.0, silent_s=silent_s)


def test_known_costs_are_added_up() -> None:
    found = predict(SplitProfile(1, 0.1, 0.02, 125_000, 0.03), Conditions(link(10.0), True, load=2.0, queue_s=0.01))
    assert found.total_s == pytest.approx(2 * 0.12 + 0.1 + 0.04 + 0.04, rel=0.01)


def test_an_uncertain_link_costs_more_than_a_certain_one_of_the_same_median() -> None:
    profile = SplitProfile(1, 0.1, 0.0, 50_000)
    sure, unsure = (predict(profile, Conditions(link(5.0, spread=s), True)).total_s for s in (0.0, 0.8))
    assert unsure > 1.1 * sure

"""The planner's promises, whatever the board and the link do."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edge_runtime.link.estimator import LinkEstimate
from edge_runtime.planner.planner import Hysteresis, Planner
from edge_runtime.planner.prediction import Conditions, SplitProfile, predict

LOCAL = 60
DWELL_S = 0.25
CUTS = {
    6: SplitProfile(6, 0.0853, 0.0526, 47040, 0.008),
    13: SplitProfile(13, 0.1306, 0.0347, 19600, 0.007),
    20: SplitProfile(20, 0.1597, 0.0272, 9800, 0.006),
    42: SplitProfile(42, 0.278, 0.0266, 5880, 0.003),
}
WHOLE = SplitProfile(LOCAL, 0.4)

conditions = st.builds(
    Conditions,
    link=st.builds(
        LinkEstimate,
        uplink_bytes_s=st.none() | st.floats(1e3, 5e6),
        rtt_s=st.floats(0.0, 0.3),
        rate_spread=st.floats(0.05, 1.5),
        age_s=st.just(0.0),
        silent_s=st.just(0.0) | st.floats(0.0, 2.0),
    ),
    link_up=st.booleans(),
    load=st.floats(0.8, 3.0),
    queue_s=st.floats(0.0, 0.1),
    local_wait_s=st.just(0.0) | st.floats(0.0, 0.5),
    may_hedge=st.booleans(),
    next_frame_s=st.floats(0.0, 1.0),
)
ready_cuts = st.frozensets(st.sampled_from(sorted(CUTS)))


def planner(*, fixed: int | None = None, cuts: dict[int, SplitProfile] | None = None) -> Planner:
    profiles = [*(CUTS if cuts is None else cuts).values(), WHOLE]
    return Planner(profiles, local=LOCAL, hysteresis=Hysteresis(dwell_s=DWELL_S), fixed=fixed)


@given(st.lists(st.tuples(st.floats(0.0, 0.5), conditions, ready_cuts), max_size=20))
def test_only_what_is_ready_is_chosen_and_every_decision_explains_itself(
    steps: list[tuple[float, Conditions, frozenset[int]]],
) -> None:
    plans, now_s = planner(), 0.0
    for pause_s, seen, ready in steps:
        now_s += pause_s
        before = plans.split
        decision = plans.decide(seen, now_s=now_s, ready=ready)
        assert decision.split in ready | {LOCAL}
        assert {p.split for p in decision.predictions} == ready | {LOCAL}
        assert decision.moved == (decision.split != before)
        assert decision.why
        assert decision.seen is not None
        chosen = next(p for p in decision.predictions if p.split == decision.split)
        assert decision.hedge == chosen.hedged
        assert math.isfinite(chosen.total_s)


@given(st.lists(st.tuples(st.floats(0.0, 0.2), conditions), max_size=30))
def test_moves_for_gain_are_no_more_often_than_the_dwell_time(steps: list[tuple[float, Conditions]]) -> None:
    plans, now_s, moved_s = planner(), 0.0, -math.inf
    for pause_s, seen in steps:
        now_s += pause_s
        up = seen.link_up and seen.link.uplink_bytes_s is not None
        decision = plans.decide(seen, now_s=now_s, ready=frozenset(CUTS))
        if decision.moved:
            assert now_s - moved_s >= DWELL_S or not up  # only a link that is gone sends it away at once
            moved_s = now_s


@given(conditions, conditions)
def test_no_move_without_a_clear_gain(first: Conditions, second: Conditions) -> None:
    plans = planner()
    before = plans.decide(first, now_s=0.0, ready=frozenset(CUTS)).split
    decision = plans.decide(second, now_s=10.0, ready=frozenset(CUTS))
    cost_s = {p.split: p.cost_s("latency") for p in decision.predictions}
    if decision.moved and math.isfinite(cost_s[before]):
        assert cost_s[before] - cost_s[decision.split] >= 0.02 * cost_s[before] - 1e-12
    assert cost_s[decision.split] <= cost_s[before]


@given(conditions, st.floats(1.0, 3.0), st.integers(1, 3))
def test_a_cut_that_is_worse_than_the_chosen_one_changes_nothing(
    seen: Conditions, factor: float, bytes_factor: int
) -> None:
    chosen = planner().decide(seen, now_s=0.0, ready=frozenset(CUTS)).split
    like = CUTS.get(chosen, CUTS[42])
    worse = replace(
        like,
        split=50,
        head_s=max(like.head_s, WHOLE.head_s if chosen == LOCAL else 0.0) * factor,
        payload_bytes=like.payload_bytes * bytes_factor,
    )
    cuts = CUTS | {50: worse}
    assert planner(cuts=cuts).decide(seen, now_s=0.0, ready=frozenset(cuts)).split == chosen


@given(st.sampled_from(sorted(CUTS)), st.lists(conditions, max_size=10))
def test_a_fixed_split_is_a_fixed_split(split: int, steps: list[Conditions]) -> None:
    plans = planner(fixed=split)
    for now_s, seen in enumerate(steps):
        decision = plans.decide(seen, now_s=float(now_s), ready=frozenset(CUTS))
        assert decision.split == (split if seen.link_up else LOCAL)
        assert not decision.hedge


@given(conditions)
def test_throughput_takes_the_shortest_stage_and_never_hedges(seen: Conditions) -> None:
    plans = Planner(
        [*CUTS.values(), WHOLE],
        local=LOCAL,
        hysteresis=Hysteresis(min_gain=0.0, min_gain_s=0.0),
        objective="throughput",
    )
    decision = plans.decide(seen, now_s=0.0, ready=frozenset(CUTS))
    alone = replace(seen, queue_s=0.0, may_hedge=False)
    local_s = WHOLE.head_s * seen.load
    best_s = min(predict(p, alone, local_s=local_s).bottleneck_s for p in [*CUTS.values(), WHOLE])
    chosen = next(p for p in decision.predictions if p.split == decision.split)
    assert chosen.bottleneck_s == pytest.approx(best_s)
    assert not decision.hedge


@pytest.mark.parametrize(("mbit", "split"), [(0.05, LOCAL), (1.5, 20), (6.0, 13), (40.0, 6)])
def test_the_faster_the_link_the_earlier_the_cut(mbit: float, split: int) -> None:
    link = LinkEstimate(mbit * 125_000, 0.04, 0.1, 0.0)
    assert planner().decide(Conditions(link, True), now_s=0.0, ready=frozenset(CUTS)).split == split


def test_a_board_that_is_busy_computes_less() -> None:
    link = LinkEstimate(6.0 * 125_000, 0.04, 0.1, 0.0)
    plans = planner()
    assert plans.decide(Conditions(link, True), now_s=0.0, ready=frozenset(CUTS)).split == 13
    assert plans.decide(Conditions(link, True, load=3.0), now_s=1.0, ready=frozenset(CUTS)).split == 6


def after_head(seen: Conditions, *, was_local: bool, local_tail_s: float | None = 0.2) -> bool:
    """Whether cut 20 is sent once its head is done."""
    cuts = CUTS | {20: replace(CUTS[20], local_tail_s=local_tail_s)}
    return planner(cuts=cuts).after_head(20, seen, was_local=was_local).send


@pytest.mark.parametrize("was_local", [False, True])
@pytest.mark.parametrize("local_tail_s", [None, 0.2])
def test_behind_the_head_it_goes_where_the_frame_is_done_first(was_local: bool, local_tail_s: float | None) -> None:
    good, silent = LinkEstimate(5e6, 0.02, 0.1, 0.0), LinkEstimate(5e6, 0.02, 0.1, 0.0, silent_s=2.0)
    slow = LinkEstimate(2e4, 0.02, 0.1, 0.0)
    assert after_head(Conditions(good, True), was_local=was_local, local_tail_s=local_tail_s)
    assert not after_head(Conditions(silent, True), was_local=was_local, local_tail_s=local_tail_s)
    assert not after_head(Conditions(slow, True), was_local=was_local, local_tail_s=local_tail_s)
    assert not after_head(Conditions(good, False), was_local=was_local, local_tail_s=local_tail_s)


@given(conditions)
def test_a_frame_that_was_to_stay_is_sent_only_if_one_that_was_to_go_would_be(seen: Conditions) -> None:
    assert after_head(seen, was_local=False) or not after_head(seen, was_local=True)

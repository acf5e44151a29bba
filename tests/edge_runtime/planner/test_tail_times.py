"""What the server reported of its tails, and how long that is believed."""

from __future__ import annotations

import pytest

from edge_runtime.planner.prediction import SplitProfile
from edge_runtime.planner.tail_times import TailTimes


def tails(**macs: int) -> TailTimes:
    return TailTimes({int(name.removeprefix("cut")): count for name, count in macs.items()})


def tail_s(times: TailTimes, split: int, *, now_s: float = 0.0) -> float:
    return times.apply(SplitProfile(split, 0.1, payload_bytes=1), now_s=now_s).tail_s


def test_unknown_tails_cost_nothing_so_that_they_are_tried() -> None:
    assert tail_s(tails(cut1=100), 1) == 0.0


def test_others_follow_in_proportion_to_their_work() -> None:
    times = tails(cut1=1000, cut2=250, cut3=0)
    times.observed(1, 0.4, at_s=0.0)
    assert tail_s(times, 1) == pytest.approx(0.4)
    assert tail_s(times, 2) == pytest.approx(0.1)
    assert tail_s(times, 3) == 0.0


def test_one_slow_answer_does_not_keep_the_device_away_for_good() -> None:
    """Nothing is heard of tails that are not used: without forgetting, one bad moment would last for ever."""
    times = tails(cut1=1000, cut2=500)
    times.observed(1, 3.0, at_s=50.0)
    assert tail_s(times, 1, now_s=55.0) == pytest.approx(3.0)
    assert tail_s(times, 1, now_s=150.0) < 0.01
    assert tail_s(times, 2, now_s=150.0) < 0.01


def test_new_answers_are_believed_at_once_again() -> None:
    times = tails(cut1=1000)
    times.observed(1, 0.2, at_s=0.0)
    times.observed(1, 0.2, at_s=500.0)
    assert tail_s(times, 1, now_s=500.0) == pytest.approx(0.2)

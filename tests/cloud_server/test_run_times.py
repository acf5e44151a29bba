"""What a tail usually takes: one slow run changes little, a long one is known at once."""

from __future__ import annotations

from cloud_server.engine import SHORT_S
from cloud_server.tail_runner import RunTimes

TAIL = ("bundle", 59, None)


def known(used_s: float) -> RunTimes:
    times = RunTimes()
    for _ in range(20):
        times.note(TAIL, used_s)
    return times


def test_nothing_is_known_of_a_tail_before_some_runs():
    times = RunTimes()
    assert times.usual_s(TAIL) is None
    times.note(TAIL, 0.1)
    assert times.usual_s(TAIL) is None


def test_a_slow_run_of_a_short_tail_leaves_it_short():
    times = known(0.3 * SHORT_S)
    times.note(TAIL, 2.0 * SHORT_S)
    assert times.usual_s(TAIL) < SHORT_S


def test_a_run_that_takes_long_by_its_plan_makes_its_tail_long_at_once():
    times = known(0.3 * SHORT_S)
    times.note(TAIL, 10.0 * SHORT_S)
    assert times.usual_s(TAIL) > SHORT_S


def test_it_is_short_again_after_short_runs():
    times = known(10.0 * SHORT_S)
    for _ in range(20):
        times.note(TAIL, 0.3 * SHORT_S)
    assert times.usual_s(TAIL) < SHORT_S

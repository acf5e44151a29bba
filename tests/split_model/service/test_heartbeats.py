"""What is stuck is found, and what is idle is not."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from split_model.service.heartbeats import Heartbeats, WatchedPool


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_idle_is_progress_and_late_is_not() -> None:
    clock = Clock()
    beats = Heartbeats(now=clock)
    beats.expect("link", within_s=2.0)
    clock.now_s = 1.5
    beats.expect("link", within_s=2.0)
    clock.now_s = 3.0
    assert beats.overdue() == []
    beats.expect("frame 1", within_s=0.7)
    clock.now_s = 4.0
    assert beats.overdue() == ["link", "frame 1"]
    beats.done("link")
    beats.done("frame 1")
    clock.now_s = 1e9
    assert beats.overdue() == []


def test_two_pieces_of_work_of_one_name_are_two() -> None:
    clock = Clock()
    beats = Heartbeats(now=clock)
    with beats.work("tail", within_s=1.0):
        with beats.work("tail", within_s=5.0):
            pass
        clock.now_s = 2.0
        assert [name.split(" #")[0] for name in beats.overdue()] == ["tail"]
    assert beats.overdue() == []


def test_two_that_live_under_one_name_are_told_apart() -> None:
    """As two links to one server do during a reload: neither hides that the other is stuck, nor ends its watch."""
    clock = Clock()
    beats = Heartbeats(now=clock)
    with beats.alive("the link", within_s=1.0) as stuck:
        with beats.alive("the link", within_s=1.0) as well:
            stuck()
            well()
            clock.now_s = 2.0
            well()
            assert [name.split(" #")[0] for name in beats.overdue()] == ["the link"]
        assert [name.split(" #")[0] for name in beats.overdue()] == ["the link"]
    assert beats.overdue() == []


def test_what_has_not_begun_to_beat_is_not_late() -> None:
    clock = Clock()
    beats = Heartbeats(now=clock)
    with beats.alive("the link", within_s=1.0):
        clock.now_s = 9.0
        assert beats.overdue() == []


def test_work_that_fails_is_over_too() -> None:
    clock = Clock()
    beats = Heartbeats(now=clock)
    with pytest.raises(ValueError), beats.work("tail", within_s=1.0):
        raise ValueError
    clock.now_s = 9.0
    assert beats.overdue() == []


def test_a_pool_is_watched_from_the_start_of_the_work_and_not_while_it_waits_in_the_queue() -> None:
    clock = Clock()
    beats = Heartbeats(now=clock)
    pool = WatchedPool("local", beats, within_s=lambda: 1.0)
    begun, go_on = threading.Event(), threading.Event()

    def hang() -> int:
        begun.set()
        assert go_on.wait(10)
        return 7

    first: Future[int] = pool.submit(hang)
    second = pool.submit(int, "3")
    assert begun.wait(10)
    clock.now_s = 2.0
    assert [name.split(" #")[0] for name in beats.overdue()] == ["local"]
    go_on.set()
    assert (first.result(10), second.result(10)) == (7, 3)
    pool.shutdown()
    clock.now_s = 9.0
    assert beats.overdue() == []

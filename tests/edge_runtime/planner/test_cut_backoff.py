"""What the server or the board refuses is left alone for a while, and tried again."""

from __future__ import annotations

import pytest

from edge_runtime.planner.cut_backoff import CutBackoff
from split_model.service.throttle import Throttle


def pause_s(backoff: CutBackoff, *, now_s: float) -> float:
    """How long cut 2 is not allowed from now on, to a hundredth of a second."""
    return next(step / 100 for step in range(10_000) if backoff.allows(2, now_s=now_s + step / 100))


def test_only_the_refused_cut_is_avoided() -> None:
    backoff = CutBackoff()
    backoff.refused(2, "unknown_cut", "no such tail", now_s=5.0)
    assert not backoff.allows(2, now_s=5.0)
    assert backoff.allows(3, now_s=5.0)
    assert backoff.allows(2, now_s=35.0)


def refused_again(backoff: CutBackoff, times: int, *, now_s: float, **options: float) -> list[float]:
    """The pauses after refusals, each as soon as the pause before is over."""
    pauses = []
    for _ in range(times):
        backoff.refused(2, "busy", "queue full", now_s=now_s, **options)
        pauses.append(pause_s(backoff, now_s=now_s))
        now_s += pauses[-1]
    return pauses


def test_pauses_grow_while_the_server_is_busy_and_shrink_slowly_once_it_is_not() -> None:
    backoff = CutBackoff()
    assert refused_again(backoff, 9, now_s=0.0) == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    calm_s = 190.0  # after the last pause, at 183.5 s
    assert backoff.asks_first(2, now_s=calm_s)
    assert refused_again(backoff, 1, now_s=calm_s + 120.0) == [pytest.approx(14.9, abs=0.1)]
    assert not backoff.asks_first(2, now_s=calm_s + 3600.0)
    assert refused_again(backoff, 1, now_s=calm_s + 3600.0) == [0.5]


def test_requests_that_were_on_their_way_are_refused_once() -> None:
    backoff = CutBackoff()
    for _ in range(6):
        backoff.refused(2, "busy", "queue full", now_s=0.0)
    assert pause_s(backoff, now_s=0.0) == 0.5


def test_nobody_comes_back_before_the_server_said_and_not_all_at_once() -> None:
    pauses = []
    for number in range(20):
        backoff = CutBackoff(jitter=lambda number=number: number / 20)
        backoff.refused(2, "expired", "too late", now_s=0.0, retry_s=3.0)
        pauses.append(pause_s(backoff, now_s=0.0))
    assert min(pauses) >= 3.0
    assert len(set(pauses)) == 20


def test_a_server_without_time_for_a_tail_has_none_for_longer_ones() -> None:
    backoff = CutBackoff(tail_macs={0: 100, 2: 90, 5: 50, 9: 1})
    backoff.crowded(2, "it says so", now_s=0.0, retry_s=2.0)
    assert [backoff.allows(cut, now_s=1.0) for cut in (0, 2, 5, 9)] == [False, False, False, True]
    backoff.crowded(9, "requests wait", now_s=10.0, is_queue=True)
    assert not any(backoff.allows(cut, now_s=10.1) for cut in (0, 2, 5, 9))


def test_after_a_refusal_the_server_is_asked_until_it_says_yes() -> None:
    backoff = CutBackoff()
    assert not backoff.asks_first(2, now_s=0.0)
    backoff.refused(2, "busy", "queue full", now_s=0.0)
    assert backoff.asks_first(2, now_s=1.0)
    backoff.turned_away(2, now_s=1.0, retry_s=0.1)
    assert pause_s(backoff, now_s=1.0) == 2.0  # it costs nothing, so the pause does not grow
    backoff.turned_away(2, now_s=4.0, retry_s=0.1)
    assert pause_s(backoff, now_s=4.0) == 2.0
    backoff.welcome()
    assert not backoff.asks_first(2, now_s=7.0)
    backoff.refused(2, "busy", "queue full", now_s=8.0)
    assert backoff.asks_first(2, now_s=8.0)


def test_a_revoked_key_says_nothing_of_the_cut() -> None:
    backoff = CutBackoff()
    backoff.refused(2, "revoked", "no longer allowed", now_s=0.0)
    assert backoff.allows(2, now_s=0.0)


def test_many_refusals_do_not_overflow() -> None:
    backoff = CutBackoff()
    for number in range(5000):
        backoff.refused(2, "busy", "queue full", now_s=number * 60.0)
    assert pause_s(backoff, now_s=4999 * 60.0) == pytest.approx(60.0)


def test_what_cannot_mend_itself_is_asked_ever_more_seldom():
    backoff = CutBackoff()
    now_s, asked = 0.0, 0
    while now_s < 86_400.0:
        backoff.refused(2, "unknown_release", "plans differ", now_s=now_s)
        asked += 1
        while not backoff.allows(2, now_s=now_s):
            now_s += 10.0
    assert asked < 40  # a release is charged each time


def test_a_server_that_refuses_for_ever_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """It may take and refuse requests in turn, so that no pause grows."""
    backoff, throttle = CutBackoff(), Throttle(now=lambda: 0.0)
    for number in range(1000):
        backoff.refused(2, "busy", "queue full", now_s=number * 60.0)
        backoff.answered(2)
    shown = sum(throttle.filter(record) for record in caplog.records)
    assert 1 <= shown <= 10

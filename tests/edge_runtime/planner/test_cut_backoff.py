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


def test_pauses_grow_while_the_server_is_busy_and_start_over_after_an_answer() -> None:
    backoff = CutBackoff()
    pauses = []
    for _ in range(9):
        backoff.refused(2, "busy", "queue full", now_s=0.0)
        pauses.append(pause_s(backoff, now_s=0.0))
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    backoff.answered(2)
    backoff.refused(2, "expired", "too late", now_s=100.0)
    assert pause_s(backoff, now_s=100.0) == 0.5


def test_a_revoked_key_says_nothing_of_the_cut() -> None:
    backoff = CutBackoff()
    backoff.refused(2, "revoked", "no longer allowed", now_s=0.0)
    assert backoff.allows(2, now_s=0.0)


def test_many_refusals_do_not_overflow() -> None:
    backoff = CutBackoff()
    for _ in range(5000):
        backoff.refused(2, "busy", "queue full", now_s=0.0)
    assert pause_s(backoff, now_s=0.0) == pytest.approx(30.0)


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
    for _ in range(1000):
        backoff.refused(2, "busy", "queue full", now_s=0.0)
        backoff.answered(2)
    shown = sum(throttle.filter(record) for record in caplog.records)
    assert 1 <= shown <= 10

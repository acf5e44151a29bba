"""The watchdog is fed while nothing is stuck, and by nobody else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_runtime.service.reporter import Reporter
from split_model.service.heartbeats import Heartbeats
from split_model.service.notify import Notifier


class Counting(Notifier):
    """Counts how often the watchdog was fed."""

    def __init__(self) -> None:
        super().__init__(watchdog_s=0.08)
        self.fed = 0

    def alive(self) -> None:
        self.fed += 1


def soon(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.005)


@pytest.fixture
def watched() -> Iterator[tuple[Reporter, Counting, Heartbeats]]:
    notifier, beats = Counting(), Heartbeats()
    reporter = Reporter(None, config=Path(), notifier=notifier, beats=beats, stopped=lambda: False)
    reporter.start()
    yield reporter, notifier, beats
    reporter.stop()


def test_what_is_stuck_starves_the_watchdog_and_is_named_once(
    watched: tuple[Reporter, Counting, Heartbeats], caplog: pytest.LogCaptureFixture
) -> None:
    _, notifier, beats = watched
    soon(lambda: notifier.fed > 3)  # idle
    beats.expect("the answer of frame 7", within_s=0.0)
    soon(lambda: "stuck: the answer of frame 7" in caplog.text)
    fed = notifier.fed
    time.sleep(0.3)  # several of its turns
    assert notifier.fed == fed
    assert caplog.text.count("stuck:") == 1
    beats.done("the answer of frame 7")
    soon(lambda: notifier.fed > fed)


def test_what_is_only_slow_does_not(watched: tuple[Reporter, Counting, Heartbeats]) -> None:
    _, notifier, beats = watched
    beats.expect("the answer of frame 7", within_s=3600.0)
    fed = notifier.fed
    soon(lambda: notifier.fed > fed + 3)

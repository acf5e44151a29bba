"""A thread that ends when asked, or is left behind in time."""

from __future__ import annotations

import queue
import threading
import time

import pytest

from split_model.service.stoppable_thread import StoppableThread


def test_work_that_waits_on_the_flag_ends_at_once() -> None:
    class Waiting(StoppableThread):
        def run(self) -> None:
            self.stopping.wait()

    thread = Waiting("x")
    thread.start()
    assert thread.stop()
    assert not thread.is_alive()


def test_work_that_waits_for_something_else_is_woken() -> None:
    things: queue.SimpleQueue[None] = queue.SimpleQueue()
    thread = StoppableThread("x", things.get, wake=lambda: things.put(None))
    thread.start()
    assert thread.stop()


def test_work_that_hangs_is_named_and_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    thread = StoppableThread("sticky", release.wait)
    thread.start()
    started_s = time.monotonic()
    assert not thread.stop(0.05)
    assert time.monotonic() - started_s < 5.0
    assert "thread sticky does not end" in caplog.text
    assert thread.daemon, "it must not keep the program from ending"
    release.set()
    assert thread.stop()


def test_one_that_was_never_started_has_ended() -> None:
    assert StoppableThread("x").stop()

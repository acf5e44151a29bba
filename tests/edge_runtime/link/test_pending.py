"""Two threads and the requests between them: no outcome is lost, none is given twice, no wait is in vain."""

from __future__ import annotations

import threading
from typing import Any, cast

from edge_runtime.link.link_view import Outcome
from edge_runtime.link.pending import PendingRequests

ANSWER = Outcome(0.0, answered=cast("Any", object()))


def test_an_outcome_is_taken_once() -> None:
    pending = PendingRequests()
    pending.open(1)
    pending.finish(1, ANSWER)
    assert pending.has_ended(1)
    assert pending.wait(1, until_s=float("inf")) is ANSWER
    assert pending.wait(1, until_s=0.0) is None
    pending.finish(1, ANSWER)
    assert not pending.has_ended(1)
    assert len(pending) == 0


def test_what_was_given_up_gets_no_outcome() -> None:
    pending = PendingRequests()
    pending.open(1)
    pending.give_up(1)
    pending.give_up(1)
    pending.finish(1, ANSWER)
    assert pending.wait(1, until_s=0.0) is None
    assert len(pending) == 0


def test_waiting_ends_when_no_outcome_can_come() -> None:
    pending = PendingRequests()
    pending.open(1)
    threading.Timer(0.02, pending.close).start()
    assert pending.wait(1, until_s=float("inf")) is None
    pending.wait_for_news(until_s=float("inf"), unless=lambda: False)


def test_a_nudge_looks_again_at_what_else_could_end_the_wait() -> None:
    pending = PendingRequests()
    pending.open(1)
    done = threading.Event()

    def finish() -> None:
        done.set()
        pending.nudge()

    threading.Timer(0.02, finish).start()
    assert pending.wait(1, until_s=float("inf"), unless=done.is_set) is None


def test_two_threads_and_ten_thousand_requests() -> None:
    """Given up or answered, in any order: each ends exactly once."""
    pending = PendingRequests()
    ready: list[threading.Event] = [threading.Event() for _ in range(10_000)]

    def answer() -> None:
        for number, event in enumerate(ready):
            event.wait()
            pending.finish(number, ANSWER)

    thread = threading.Thread(target=answer)
    thread.start()
    taken = 0
    for number, event in enumerate(ready):
        pending.open(number)
        event.set()
        taken += pending.wait(number, until_s=float("inf") if number % 2 else 0.0) is not None
        pending.give_up(number)
    thread.join()
    # Those that were finished between the wait and the giving up are neither taken nor kept: nobody saw them.
    assert 5000 <= taken <= 10_000
    assert len(pending) == 0

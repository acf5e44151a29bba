"""Two threads and a mailbox: no outcome is lost, none is given twice, nobody waits for what cannot come."""

from __future__ import annotations

import threading
from typing import Any, cast

from edge_runtime.link.pending import Mailbox, Outcome, Progress

ANSWER = Outcome(0.0, answered=cast("Any", object()))
REFUSAL = Outcome(0.0, refusal=cast("Any", object()))


def test_an_outcome_is_taken_once() -> None:
    mailbox = Mailbox()
    mailbox.open(1, 10)
    mailbox.finish(1, ANSWER)
    assert mailbox.wait(1, until_s=float("inf")) is ANSWER
    assert mailbox.wait(1, until_s=0.0) is None
    mailbox.finish(1, ANSWER)
    assert mailbox.late == 1
    assert mailbox.outcomes == {}


def test_a_late_answer_counts_and_a_late_refusal_does_not() -> None:
    mailbox = Mailbox()
    mailbox.open(1, 10)
    assert mailbox.give_up(1) == Progress(10)
    assert mailbox.give_up(1) is None
    mailbox.finish(1, REFUSAL)
    assert mailbox.late == 0
    mailbox.finish(1, ANSWER)
    mailbox.came_late()
    assert mailbox.late == 2


def test_acknowledged_bytes_are_those_of_open_requests() -> None:
    mailbox = Mailbox()
    mailbox.open(1, 10)
    mailbox.note({1: 7}.__getitem__, {1: 3.5}.__getitem__)
    assert (mailbox.acked_bytes(1), mailbox.acked_bytes(2)) == (7, 0)
    assert mailbox.give_up(1) == Progress(10, 7, 3.5)
    mailbox.note({1: 7}.__getitem__, {1: 3.5}.__getitem__)
    assert mailbox.acked_bytes(1) == 0


def test_a_request_that_was_answered_is_not_given_up() -> None:
    """Else the link would be told that it is dying by each answer that came a moment too late."""
    mailbox = Mailbox()
    mailbox.open(1, 10)
    mailbox.finish(1, ANSWER)
    assert mailbox.give_up(1) is None


def test_waiting_ends_when_no_outcome_can_come() -> None:
    mailbox = Mailbox()
    mailbox.open(1, 10)
    threading.Timer(0.02, mailbox.close).start()
    assert mailbox.wait(1, until_s=float("inf")) is None


def test_a_nudge_looks_again_at_what_else_could_end_the_wait() -> None:
    mailbox = Mailbox()
    mailbox.open(1, 10)
    done = threading.Event()

    def finish() -> None:
        done.set()
        mailbox.nudge()

    threading.Timer(0.02, finish).start()
    assert mailbox.wait(1, until_s=float("inf"), unless=done.is_set) is None


def test_two_threads_and_ten_thousand_requests() -> None:
    """Given up or answered, in any order: each ends exactly once."""
    mailbox = Mailbox()
    ready: list[threading.Event] = [threading.Event() for _ in range(10_000)]

    def answer() -> None:
        for number, event in enumerate(ready):
            event.wait()
            mailbox.finish(number, ANSWER)

    thread = threading.Thread(target=answer)
    thread.start()
    taken = 0
    for number, event in enumerate(ready):
        mailbox.open(number, 1)
        event.set()
        taken += mailbox.wait(number, until_s=float("inf") if number % 2 else 0.0) is not None
        mailbox.give_up(number)
    thread.join()
    # Those that were finished between the wait and the giving up are neither taken nor late: nobody saw them.
    assert 5000 <= taken <= 10_000
    assert mailbox.late <= 10_000 - taken
    assert mailbox.outcomes == {}

"""The board's threads: pieces in order, none waiting for anybody, nothing held, nothing left behind."""

from __future__ import annotations

import gc
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edge_runtime.loop.board_queue import BoardQueue, Piece, Work
from edge_runtime.loop.board_thread import BoardThread, Ended

PATIENCE_S = 10.0


class Gate:
    """Work that begins, says so, and ends when it may."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.may_end.wait(PATIENCE_S)
        return "done"


class Heard:
    """What a thread tells of its pieces, in order."""

    def __init__(self) -> None:
        self._ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()

    def __call__(self, ended: Ended) -> None:
        self._ended.put(ended)

    def next(self) -> Ended:
        return self._ended.get(timeout=PATIENCE_S)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def make(heard: Heard) -> Iterator[Callable[..., BoardThread]]:
    made: list[BoardThread] = []

    def board(**options: Any) -> BoardThread:
        made.append(BoardThread("board", heard, **options))
        return made[-1]

    yield board
    for one in made:
        one.close()
    assert [thread for thread in threading.enumerate() if thread.name == "board"] == []


def test_pieces_are_done_in_order_but_for_those_that_are_first(
    make: Callable[..., BoardThread], heard: Heard
) -> None:
    """Frames that the server left come back in the order of their deadlines."""
    board, gate, order = make(), Gate(), []
    board.do(0, gate)
    gate.begun.wait(PATIENCE_S)
    for number in (9, 1, 2, 3):
        board.do(number, lambda number=number: order.append(number), first=number < 4)
    board.skip(2)
    gate.may_end.set()
    ended = [heard.next() for _ in range(5)]
    assert order == [1, 3, 9]
    assert [one.piece for one in ended] == [0, 1, 2, 3, 9]
    assert [one.piece for one in ended if one.skipped] == [2]


def test_what_a_piece_raises_is_told_and_the_next_one_goes_on(
    make: Callable[..., BoardThread], heard: Heard
) -> None:
    board = make()

    def fail() -> None:
        raise ZeroDivisionError

    board.do(1, fail)
    board.do(2, lambda: 7)
    assert isinstance(heard.next().error, ZeroDivisionError)
    assert heard.next() == Ended(2, 7)


def test_a_result_that_was_taken_is_held_by_nobody(make: Callable[..., BoardThread], heard: Heard) -> None:
    class Payload:
        pass

    board, gate = make(), Gate()
    board.do(1, Payload)
    held = weakref.ref(heard.next().value)
    board.do(2, gate)
    gate.begun.wait(PATIENCE_S)
    gc.collect()
    assert held() is None
    gate.may_end.set()


def test_closing_waits_for_what_goes_on_and_begins_nothing(make: Callable[..., BoardThread], heard: Heard) -> None:
    board, gate, order = make(), Gate(), []
    board.do(1, gate)
    gate.begun.wait(PATIENCE_S)
    board.do(2, lambda: order.append(1))
    threading.Timer(0.05, gate.may_end.set).start()
    board.close()
    assert heard.next() == Ended(1, "done")
    assert order == []


def test_a_piece_that_has_begun_is_not_skipped(make: Callable[..., BoardThread], heard: Heard) -> None:
    board, gate = make(), Gate()
    board.do(1, gate)
    gate.begun.wait(PATIENCE_S)
    board.skip(1)
    gate.may_end.set()
    assert heard.next() == Ended(1, "done")


def test_a_thread_starts_with_its_first_piece(make: Callable[..., BoardThread], heard: Heard) -> None:
    board = make()
    assert [thread for thread in threading.enumerate() if thread.name == "board"] == []
    board.do(1, lambda: None)
    heard.next()


def piece(number: int, expected_s: float = 1.0) -> Piece:
    return Piece(number, number, Work.HEAD, expected_s)


def test_how_long_a_piece_waits_is_said_by_those_before_it() -> None:
    work = BoardQueue()
    assert (work.left_s(10.0), work.wait_s(10.0)) == ((0.0, 0.0), 0.0)
    work.put(piece(0), now_s=10.0)
    for number in (9, 1, 2, 3):
        work.put(piece(number, 2.0), now_s=10.0, first=number < 4)
    work.cancel(2, now_s=10.0)
    assert (work.left_s(10.0), work.wait_s(10.0)) == ((5.0, 1.0), 7.0)
    assert work.waiting == 3
    assert work.left_s(10.5) == (4.5, 1.0)
    order = [0]
    for _ in range(4):
        work.ended(order[-1])
        order.append(work.pieces()[0])
    assert order == [0, 1, 2, 3, 9]


@pytest.mark.parametrize("took_s", [0.1, 1.0, 7.0])
def test_how_long_a_piece_waits_does_not_tell_how_long_those_before_it_took(took_s: float) -> None:
    """It decides whether a later frame is sent, and how long they took may depend on what is in them."""
    work = BoardQueue()
    for number in range(3):
        work.put(piece(number), now_s=10.0)
    work.put(piece(3), now_s=10.0, first=True)
    waits = {}
    for tenth in range(120):
        now_s = 10.0 + tenth / 10
        if work.busy and now_s >= 10.0 + took_s * (5 - len(work.pieces())):
            work.ended(work.pieces()[0])
        waits[tenth] = (work.left_s(now_s), work.wait_s(now_s))
    assert waits[0] == ((2.0, 1.0), 4.0)
    assert waits[15] == ((pytest.approx(0.5), 1.0), pytest.approx(2.5))
    assert waits[41] == ((0.0, 0.0), 0.0)


def test_a_worker_may_be_faster_than_what_is_heard_of_it() -> None:
    """Two ends are told at once, and a piece that was put first between them came too late."""
    work = BoardQueue()
    work.put(piece(1), now_s=0.0)
    work.put(piece(2), now_s=0.0)
    work.put(piece(3), now_s=0.5, first=True)
    assert work.ended(2).number == 2
    assert work.ended(1).number == 1
    assert work.pieces() == [3]


def test_of_two_that_are_first_an_idle_thread_begins_with_the_first(make: Callable[..., BoardThread]) -> None:
    for _ in range(50):
        board = make()
        order: list[int] = []
        done = threading.Event()
        board.do(1, lambda order=order: order.append(1), first=True)
        board.do(2, lambda order=order, done=done: (order.append(2), done.set()), first=True)
        assert done.wait(PATIENCE_S)
        assert order == [1, 2]

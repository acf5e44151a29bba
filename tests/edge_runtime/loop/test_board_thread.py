"""The board thread: pieces in order, none waiting for anybody, nothing held, nothing left behind."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

import pytest

from edge_runtime.loop.board_thread import BoardThread

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


@pytest.fixture
def make() -> Iterator[Callable[..., BoardThread]]:
    made: list[BoardThread] = []

    def board(done: Callable[[], None] = lambda: None, **options: object) -> BoardThread:
        made.append(BoardThread(done, **options))  # type: ignore[arg-type]
        return made[-1]

    yield board
    for one in made:
        one.close()
    assert [thread for thread in threading.enumerate() if thread.name == "board"] == []


def test_pieces_are_done_in_order_but_for_the_one_that_is_first(make: Callable[..., BoardThread]) -> None:
    board, gate, order = make(), Gate(), []
    board.do(gate, expected_s=1.0)
    gate.begun.wait(PATIENCE_S)
    futures = [board.do(lambda n=n: order.append(n), expected_s=1.0) for n in (1, 2)]  # type: ignore[misc]
    futures.append(board.do(lambda: order.append(0), expected_s=1.0, first=True))
    assert board.waiting == 3
    gate.may_end.set()
    for future in futures:
        future.result(PATIENCE_S)
    assert order == [0, 1, 2]


def test_of_those_that_are_first_the_older_one_is(make: Callable[..., BoardThread]) -> None:
    """Frames that the server left come back in the order of their deadlines, each told how long it has to wait."""
    clock = [10.0]
    board, gate, order = make(now=lambda: clock[0]), Gate(), []
    board.do(gate, expected_s=1.0)
    gate.begun.wait(PATIENCE_S)
    futures = [
        board.do(lambda n=n: order.append(n), expected_s=2.0, first=n < 4)  # type: ignore[misc]
        for n in (9, 1, 2, 3)
    ]
    assert futures.pop(2).cancel()
    assert board.left_s() == (5.0, 1.0)
    gate.may_end.set()
    for future in futures:
        future.result(PATIENCE_S)
    last = board.do(lambda: order.append(0), expected_s=1.0)
    last.result(PATIENCE_S)
    assert order == [1, 3, 9, 0]


def test_what_a_piece_raises_is_for_who_asks_for_it_and_the_next_one_goes_on(
    make: Callable[..., BoardThread],
) -> None:
    board = make()

    def fail() -> None:
        raise ZeroDivisionError

    failed, good = board.do(fail, expected_s=0.1), board.do(lambda: 7, expected_s=0.1)
    assert good.result(PATIENCE_S) == 7
    with pytest.raises(ZeroDivisionError):
        failed.result(PATIENCE_S)


def test_who_hears_of_an_end_sees_the_next_piece_as_the_present_one(make: Callable[..., BoardThread]) -> None:
    """Else the frame loop would believe that there is no room for another frame, and let the board wait."""
    clock, seen = [10.0], []
    board = make(lambda: seen.append((ended.done(), board.left_s(), board.waiting)), now=lambda: clock[0])
    assert board.left_s() == (0.0, 0.0)
    first, second = Gate(), Gate()
    ended = board.do(first, expected_s=1.0)
    last = board.do(second, expected_s=2.0)
    clock[0] = 10.5
    assert board.left_s() == (0.5, 1.0)
    assert board.waiting == 1
    clock[0] = 20.0
    assert board.left_s() == (0.0, 1.0)
    first.may_end.set()
    second.begun.wait(PATIENCE_S)
    assert seen == [(True, (2.0, 2.0), 0)]
    second.may_end.set()
    last.result(PATIENCE_S)


def test_a_result_that_was_taken_is_held_by_nobody(make: Callable[..., BoardThread]) -> None:
    class Payload:
        pass

    board, gate = make(), Gate()
    future = board.do(Payload, expected_s=0.1)
    held = weakref.ref(future.result(PATIENCE_S))
    board.do(gate, expected_s=0.1)
    gate.begun.wait(PATIENCE_S)
    del future
    gc.collect()
    assert held() is None
    gate.may_end.set()


def test_closing_waits_for_what_goes_on_and_cancels_the_rest(make: Callable[..., BoardThread]) -> None:
    board, gate, order = make(), Gate(), []
    going_on = board.do(gate, expected_s=1.0)
    gate.begun.wait(PATIENCE_S)
    waiting = board.do(lambda: order.append(1), expected_s=1.0)
    threading.Timer(0.05, gate.may_end.set).start()
    board.close()
    assert going_on.result(0) == "done"
    with pytest.raises(CancelledError):
        waiting.result(0)
    assert order == []


def test_a_cancelled_piece_is_not_done(make: Callable[..., BoardThread]) -> None:
    board, gate, order = make(), Gate(), []
    board.do(gate, expected_s=1.0)
    gate.begun.wait(PATIENCE_S)
    assert board.do(lambda: order.append(1), expected_s=1.0).cancel()
    last = board.do(lambda: order.append(2), expected_s=1.0)
    gate.may_end.set()
    last.result(PATIENCE_S)
    assert order == [2]

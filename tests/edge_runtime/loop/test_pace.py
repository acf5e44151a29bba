"""Work in slots: when it ends does not tell how long it took."""

from __future__ import annotations

from typing import Any

import pytest

from edge_runtime.board.board import EmulatedBoard
from edge_runtime.loop.actions import Run
from edge_runtime.loop.board_queue import Work
from edge_runtime.loop.board_work import BoardWork, Made
from edge_runtime.sources import Frame
from split_model.errors import BackendError

SLOT_S = 2.0


class Clock:
    """Time passes by sleeping, and by work."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Whole:
    """A whole model that takes a time of the test's."""

    def __init__(self, clock: Clock, took_s: float, error: str = "") -> None:
        self.clock = clock
        self.took_s = took_s
        self.error = error
        self.whole = self  # it is what has the whole model, too

    @property
    def heads(self) -> Whole:
        return self

    def run(self, tensors: Any) -> list[Any]:
        self.clock.sleep(self.took_s)
        if self.error:
            raise BackendError(self.error)
        return ["answer", *tensors]


def ends_s(took_s: float, *, slot_s: float = SLOT_S, error: str = "") -> float:
    """When a piece of work ends that was begun at 0."""
    clock = Clock()
    models: Any = Whole(clock, took_s, error)
    work = BoardWork(models, EmulatedBoard(1.0), now=clock.now, sleep=clock.sleep)
    run = Run(1, 1, Frame(0, "", (), None, 0.0), Work.WHOLE_MODEL, slot_s=slot_s)
    piece = work.piece(run, Made())
    if error:
        with pytest.raises(BackendError):
            piece()
    else:
        assert piece().outputs == ["answer"]
    return clock.now_s - 100.0


@pytest.mark.parametrize("took_s", [0.0, 0.3, 1.9])
def test_what_fits_into_its_slot_ends_with_it(took_s: float) -> None:
    assert ends_s(took_s) == pytest.approx(SLOT_S)
    assert ends_s(took_s, error="out of memory") == pytest.approx(SLOT_S)


@pytest.mark.parametrize(("took_s", "slots"), [(2.1, 2), (3.9, 2), (4.1, 3)])
def test_what_misses_its_slot_ends_with_the_next_of_the_grid(took_s: float, slots: int) -> None:
    assert ends_s(took_s) == pytest.approx(slots * SLOT_S)


def test_without_slots_it_ends_when_it_is_done() -> None:
    assert ends_s(0.3, slot_s=0.0) == pytest.approx(0.3)

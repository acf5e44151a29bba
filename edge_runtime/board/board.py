"""Runs work on the board and times it, on the real board or an emulated slower one.

`EmulatedBoard` is the same program on a slower board: after each piece of work it sleeps until the work has
taken ``slowdown`` times its CPU time. It ships, is chosen by the config only, and every report names it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class Board(Protocol):
    """A board that runs heads and times them."""

    @property
    def slowdown(self) -> float:
        """1 for the real board."""
        ...

    def run(self, work: Callable[[], T]) -> tuple[T, float]:
        """Do the work; returns its result and the seconds it took on this board."""
        ...


class RealBoard:
    """The machine as it is."""

    slowdown = 1.0

    def __init__(self) -> None:
        self._busy: dict[int, bool] = {}  # one entry for each thread: whether it has work under way

    @property
    def busy(self) -> bool:
        """Whether work is under way in any thread."""
        return any(self._busy.copy().values())

    def run(self, work: Callable[[], T]) -> tuple[T, float]:
        """Do the work and time it."""
        thread = threading.get_ident()
        self._busy[thread] = True
        started_s = time.monotonic()
        try:
            result = work()
        finally:
            self._busy[thread] = False
        return result, time.monotonic() - started_s


class EmulatedBoard:
    """The machine, slowed down by a factor; ``slowdown`` 27 makes a 15 ms model take 400 ms.

    It has no load: other programs run on *this* machine, not on the emulated board.
    """

    def __init__(self, slowdown: float) -> None:
        self.slowdown = slowdown

    def run(self, work: Callable[[], T]) -> tuple[T, float]:
        """Do the work, then sleep for the rest of its time on the emulated board.

        The thread's CPU time is stretched, not the wall time: delays by other programs on *this* machine must not
        be multiplied.
        """
        started_s, cpu_s = time.monotonic(), time.thread_time()
        result = work()
        due_s = started_s + (time.thread_time() - cpu_s) * self.slowdown
        remaining_s = due_s - time.monotonic()
        if remaining_s > 0:
            time.sleep(remaining_s)
        return result, time.monotonic() - started_s


def make_board(slowdown: float) -> Board:
    """The real board, or the emulated one where ``slowdown`` is not 1."""
    if slowdown == 1.0:
        return RealBoard()
    log.warning("EMULATED board: %g times slower than this machine", slowdown)
    return EmulatedBoard(slowdown)

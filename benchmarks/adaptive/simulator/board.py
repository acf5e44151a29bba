"""A board in virtual time: what others do on it, its seconds, and what it does beside the frame loop."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, TypeVar

from benchmarks.adaptive.simulator.clock import Clock

T = TypeVar("T")


@dataclass(frozen=True)
class Hog:
    """Another program on the board: work takes ``factor`` times longer for ``busy_s`` of every ``period_s``."""

    factor: float = 1.0
    busy_s: float = 20.0
    period_s: float = 60.0

    def took_s(self, work_s: float, start_s: float) -> float:
        """How long ``work_s`` seconds of an idle board take from ``start_s`` on."""
        if self.factor == 1.0:
            return work_s
        now_s, left_s = start_s, work_s
        while left_s > 1e-12:
            phase_s = now_s % self.period_s
            busy = phase_s < self.busy_s
            until_s = (self.busy_s if busy else self.period_s) - phase_s
            factor = self.factor if busy else 1.0
            step_s = min(until_s, left_s * factor)
            now_s += step_s
            left_s -= step_s / factor
        return now_s - start_s


class VirtualBoard:
    """Stands in for `edge_runtime.board.board`: work says what it costs, and that much time passes."""

    slowdown = 1.0

    def __init__(self, clock: Clock, hog: Hog) -> None:
        self.clock = clock
        self.hog = hog
        self._background_s: float | None = None
        self._charged_s = 0.0

    def cpu_load(self) -> float:
        """What others leave of four cores' time is not seen here; the head's own times tell the load."""
        return 0.0

    def charge(self, work_s: float) -> None:
        """Called by the work: so long does it take on an idle board."""
        self._charged_s += work_s

    def run(self, work: Callable[[], T]) -> tuple[T, float]:
        """Do the work; its seconds pass, unless they do so in the background."""
        self._charged_s = 0.0
        result = work()
        took_s = self.hog.took_s(self._charged_s, self.clock.now_s)
        if self._background_s is None:
            self.clock.run_until(self.clock.now_s + took_s)
        else:
            self._background_s = took_s
        return result, took_s

    def run_beside(self, work: Callable[[], T]) -> tuple[T, float]:
        """Do the work, whose `run` lets no time pass; the seconds that this took, or will have taken."""
        self._background_s = 0.0
        result = work()
        took_s, self._background_s = self._background_s, None
        return result, took_s


class _VirtualFuture(Future[Any]):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def result(self, timeout: float | None = None) -> Any:
        self._clock.run_until(math.inf, self.done)
        return super().result(timeout)


class BackgroundRuns(Executor):
    """One thread beside the frame loop, in virtual time: a run takes what it charges the board."""

    def __init__(self, board: VirtualBoard) -> None:
        self._board = board
        self._waiting: deque[tuple[_VirtualFuture, Callable[[], Any]]] = deque()
        self._busy = False
        self.runs = 0
        self.busy_s = 0.0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start now, or after what is under way."""
        future = _VirtualFuture(self._board.clock)
        self._waiting.append((future, lambda: fn(*args, **kwargs)))
        if not self._busy:
            self._next()
        return future

    def _next(self) -> None:
        while self._waiting:
            future, work = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                result, took_s = self._board.run_beside(work)
                self._busy = True
                self.runs += 1
                self.busy_s += took_s
                clock = self._board.clock
                clock.at(clock.now_s + took_s, lambda: self._done(future, result))  # noqa: B023 we return
                return

    def _done(self, future: _VirtualFuture, result: Any) -> None:
        self._busy = False
        future.set_result(result)
        self._next()


class BackgroundLoads(Executor):
    """The thread that loads what is wanted, in virtual time: ``each_s`` for each, one after another."""

    def __init__(self, clock: Clock, *, each_s: float) -> None:
        self._clock = clock
        self._each_s = each_s
        self._free_s = 0.0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """It is there after what was asked for before."""
        future = _VirtualFuture(self._clock)
        self._free_s = max(self._free_s, self._clock.now_s) + self._each_s
        self._clock.at(self._free_s, lambda: future.set_result(fn(*args, **kwargs)))
        return future

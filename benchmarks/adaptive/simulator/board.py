"""A board in virtual time: the load of other programs, the duration of its work, and its background loading."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from benchmarks.adaptive.simulator.clock import Clock
from edge_runtime.board.cpu_load import CpuReadings
from edge_runtime.loop.actions import Run
from edge_runtime.loop.board_queue import Worker

#: Of the board.
CPUS = 4


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

    def factor_at(self, now_s: float) -> float:
        """How many times longer work takes at this moment."""
        return self.factor if now_s % self.period_s < self.busy_s else 1.0


class VirtualBoard:
    """The board's two workers, one for heads and releases, one for local runs. They do not slow each other down."""

    def __init__(self, clock: Clock, hog: Hog) -> None:
        self._clock = clock
        self._hog = hog
        self._waiting: dict[Worker, deque[_Piece]] = {worker: deque() for worker in Worker}
        self._urgent = dict.fromkeys(Worker, 0)
        self._busy: set[Worker] = set()
        self._unwanted: set[int] = set()

    def readings(self) -> CpuReadings:
        """Return the kernel's readings: as many threads of other programs as cause this slowdown."""
        return CpuReadings(rivals=self._hog.factor_at(self._clock.now_s) * CPUS - 1.0)

    def do(self, run: Run, *, work_s: Sequence[float], ended: Callable[[tuple[float, ...] | None], None]) -> None:
        """Do a piece of work whose parts take ``work_s`` on an idle board.

        ``ended`` is called with the seconds of each part, or with None if the piece was skipped. The piece begins
        after those that wait for its worker, or before them if it has priority.
        """
        worker = run.work.worker
        piece = _Piece(run.piece, tuple(work_s), ended)
        if run.first:
            self._waiting[worker].insert(self._urgent[worker], piece)
            self._urgent[worker] += 1
        else:
            self._waiting[worker].append(piece)
        if worker not in self._busy:
            self._next(worker)

    def skip(self, number: int) -> None:
        """Skip a piece that has not begun."""
        self._unwanted.add(number)

    def _next(self, worker: Worker) -> None:
        self._busy.discard(worker)
        if not self._waiting[worker]:
            return
        piece = self._waiting[worker].popleft()
        self._urgent[worker] = max(0, self._urgent[worker] - 1)
        self._busy.add(worker)
        took: list[float] = []
        done_s = self._clock.now_s
        unwanted = piece.number in self._unwanted
        if not unwanted:
            for part_s in piece.work_s:
                took.append(self._hog.took_s(part_s, done_s))
                done_s += took[-1]

        def over() -> None:
            self._next(worker)
            piece.ended(None if unwanted else tuple(took))

        self._clock.at(done_s, over)


@dataclass(frozen=True)
class _Piece:
    number: int
    work_s: tuple[float, ...]
    ended: Callable[[tuple[float, ...] | None], None]


class BackgroundLoads(Executor):
    """The thread that loads models in virtual time: one after another, ``each_s`` seconds for each."""

    def __init__(self, clock: Clock, *, each_s: float) -> None:
        self._clock = clock
        self._each_s = each_s
        self._free_s = 0.0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Load a model after those that were requested before."""
        future: Future[Any] = Future()
        self._free_s = max(self._free_s, self._clock.now_s) + self._each_s
        self._clock.at(self._free_s, lambda: future.set_result(fn(*args, **kwargs)))
        return future

"""Local runs: in the frame loop, or in the background while the server is still awaited. One at a time.

A run is one of the whole model, or of what is left of it behind a head (see `rests`).
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Protocol

from edge_runtime.board.board import Board
from split_model.arrays import Array
from split_model.errors import BackendError

Run = tuple[list[Array], float]


class Model(Protocol):
    """Of an interpreter, what is needed here."""

    def run(self, tensors: Sequence[Array]) -> list[Array]:
        """One inference."""
        ...


class LocalRuns:
    """Called in the frame loop's thread only, but for `run`; a run is the model's outputs and the seconds it took.

    ``took`` hears of every whole run's seconds, in that thread, at the latest with the next run. Where
    ``rest`` is given it is run, on a head's features, in place of the whole model.
    """

    def __init__(
        self,
        model: Model,
        board: Board,
        *,
        p95_s: float,
        took: Callable[[float], None],
        now: Callable[[], float] = time.monotonic,
        executor: Executor | None = None,
    ) -> None:
        self._model = model
        self._board = board
        self._took = took
        self._recent: deque[float] = deque([p95_s], maxlen=32)
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix="local")
        # A run whose frame the server answered meanwhile goes on, forgotten; whoever is next waits for it here.
        self._one_at_a_time = threading.Lock()
        self._now = now
        self._background: Future[Run] | None = None
        self._left: Future[Run] | None = None
        self._is_whole = True
        self._free_s = -math.inf
        self._background_frame = -1

    @property
    def p95_s(self) -> float:
        """The 95th percentile of the recent whole runs."""
        runs = sorted(self._recent)
        return runs[min(len(runs) - 1, math.ceil(0.95 * len(runs)) - 1)]

    def now(self, tensors: Sequence[Array], *, rest: Model | None = None) -> Run:
        """Run here, once a run in the background is done. `BackendError` where the backend fails."""
        self._leave(wait=True)
        outputs, took_s = self.run(tensors, rest)
        if rest is None:
            self.ran(took_s)
        return outputs, took_s

    def wait_s(self) -> float:
        """How long what goes on in the background will take: before that no other run begins."""
        if all(run is None or run.done() for run in (self._background, self._left)):
            return 0.0
        return max(0.0, self._free_s - self._now())

    def start(
        self, frame: int, tensors: Sequence[Array], *, expected_s: float, rest: Model | None = None
    ) -> Future[Run]:
        """Run in the background, after what may still go on for an earlier frame; a second call does nothing.

        ``expected_s``: what a run takes, for `wait_s`.
        """
        if self._background is not None and self._background_frame == frame:
            return self._background
        self._leave(wait=False)
        self._background_frame = frame
        self._is_whole = rest is None
        self._free_s = self._now() + self.wait_s() + expected_s
        self._background = self._executor.submit(self.run, tensors, rest)
        return self._background

    def has_started(self, frame: int) -> bool:
        """Whether this frame has a run in the background."""
        return self._background is not None and self._background_frame == frame

    def finish(self, frame: int, tensors: Sequence[Array], *, expected_s: float) -> Run:
        """The run of this frame, started now unless it is under way. `BackendError` where the backend fails."""
        running = self.start(frame, tensors, expected_s=expected_s)
        self._background = None
        run = running.result()
        if self._is_whole:
            self.ran(run[1])
        return run

    def run(self, tensors: Sequence[Array], rest: Model | None = None) -> Run:
        """Run now, in whatever thread this is; `ran` is to hear of it. `BackendError` where the backend fails."""
        model = self._model if rest is None else rest
        with self._one_at_a_time:
            return self._board.run(lambda: model.run(tensors))

    def ran(self, took_s: float) -> None:
        """A whole run took so long."""
        self._recent.append(took_s)
        self._took(took_s)

    def close(self) -> None:
        """Wait for a run that is still under way."""
        self._executor.shutdown(cancel_futures=True)

    def _leave(self, *, wait: bool) -> None:
        """Forget the run of an earlier frame, which the server answered. How it ends is no matter of this one's."""
        left, self._background = self._background, None
        if left is None or left.cancel():
            return
        self._left = left
        if wait or left.done():
            with contextlib.suppress(BackendError):
                _, took_s = left.result()
                if self._is_whole:
                    self.ran(took_s)

"""Runs jobs in the caller's thread: borrow an interpreter, undo the release, run the tail, say how it ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cloud_server.jobs import Done, Job, Outcome, failed
from cloud_server.tail_pool import Borrowed, TailPool
from cloud_server.tails import TailId, TailSet, UnknownReleaseError
from split_model.errors import SplitModelError
from split_model.protocol import messages as wire
from split_model.service.heartbeats import Heartbeats
from split_model.service.throttle import PER_FRAME

_log = logging.getLogger(__name__)

#: A tail that takes longer to load and run is stuck.
_TAIL_WITHIN_S = 120.0
#: Runs after which a tail's time is known, and how much one more run moves it.
_KNOWN_AFTER, _MOVES = 4, 0.25


class RunTimes:
    """What each tail took of late, in seconds of CPU time. Pure."""

    def __init__(self) -> None:
        self._known: dict[TailId, tuple[int, float]] = {}

    def note(self, tail: TailId, used_s: float) -> None:
        """One more run. A longer one counts at once, a shorter one by and by."""
        runs, usual_s = self._known.get(tail, (0, 0.0))
        if runs and used_s < usual_s:
            used_s = usual_s + (used_s - usual_s) * _MOVES
        self._known[tail] = runs + 1, used_s

    def usual_s(self, tail: TailId) -> float | None:
        """What a run takes; None before there were some."""
        runs, usual_s = self._known.get(tail, (0, 0.0))
        return usual_s if runs >= _KNOWN_AFTER else None


class Ran(NamedTuple):
    """A job that was run.

    ``used_s``: charged to its device. ``busy_s``: how long it took. ``loaded``: its tail had to be loaded first.
    """

    outcome: Outcome
    used_s: float
    busy_s: float
    loaded: bool


class TailRunner:
    """Runs jobs; safe for several threads at once. ``beats`` expects every tail to end.

    Args:
        tails: The hosted tails.
        pool: Their interpreters.
        clock: The engine's.
        tail_threads: Threads of one interpreter.
        beats: Told of each job.

    """

    def __init__(
        self,
        tails: TailSet,
        pool: TailPool,
        *,
        clock: Callable[[], float],
        tail_threads: int,
        beats: Heartbeats,
    ) -> None:
        self.tails = tails
        self.times = RunTimes()
        self._pool = pool
        self._clock = clock
        self._tail_threads = tail_threads
        self._beats = beats

    def run_all(self, jobs: Sequence[Job]) -> list[Ran]:
        """Run jobs one after another."""
        if not jobs:
            return []
        task = f"{threading.current_thread().name}, cut {jobs[0].tail.cut.index}"
        with self._beats.work(task, within_s=_TAIL_WITHIN_S):
            began_s, began_cpu_s = self._clock(), time.thread_time()
            ran: list[Ran] = []
            for job in jobs:
                outcome, was_loaded = self._run(job)
                now_s, now_cpu_s = self._clock(), time.thread_time()
                used_s = busy_s = now_s - began_s  # loading and plans are its time too
                if was_loaded:  # but not waiting for a processor, for that says nothing about the job
                    used_s = min(used_s, (now_cpu_s - began_cpu_s) * self._tail_threads)
                    self.times.note(job.tail.id, used_s)
                ran.append(Ran(outcome, used_s, busy_s, not was_loaded))
                began_s, began_cpu_s = now_s, now_cpu_s
        return ran

    def _run(self, job: Job) -> tuple[Outcome, bool]:
        """Run one job. Returns its outcome, and whether its tail was loaded before."""
        borrowed: Borrowed | None = None
        outcome: Outcome
        try:
            borrowed = self._pool.borrow(job.tail, device=job.device)
            outcome = self._outputs(job, borrowed)
        except UnknownReleaseError as error:
            outcome = failed(job, str(error), code="unknown_release")
        except SplitModelError as error:
            _log.warning("tail %s of %s: %s", *_named(job), error, extra=PER_FRAME)
            outcome = failed(job, error.problem)
        except Exception as error:  # noqa: BLE001  (one bad tail must not end the worker; the device is told)
            _log.exception("tail %s of %s", *_named(job), extra=PER_FRAME)
            outcome = failed(job, f"{type(error).__name__}: {error}")
        finally:
            if borrowed is not None:
                self._pool.give_back(borrowed)
        return outcome, borrowed is not None and not borrowed.fresh

    def _outputs(self, job: Job, borrowed: Borrowed) -> Done:
        started_s = self._clock()  # loading is waiting: it says nothing about how long this tail runs
        features = self.tails.features(job.tail, job.release, job.payload, device=job.device)
        outputs = borrowed.interpreter.run(features)
        return Done(
            job_id=job.job_id,
            tensors=tuple([_tensor(output.dtype.char, output.shape) for output in outputs]),
            payload=b"".join([output.tobytes() for output in outputs]),
            queue_s=max(0.0, started_s - job.queued_s),
            tail_s=max(0.0, self._clock() - started_s),
        )


@lru_cache(maxsize=256)
def _tensor(dtype_char: str, shape: tuple[int, ...]) -> wire.AnswerTensor:
    """An output's description; NumPy takes longer to name a dtype than everything else around an answer."""
    return wire.AnswerTensor(dtype=np.dtype(dtype_char).name, shape=shape)


def _named(job: Job) -> tuple[int, str]:
    return job.tail.cut.index, job.tail.bundle.manifest.name

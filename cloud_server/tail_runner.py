"""Runs jobs in the caller's thread: borrows an interpreter, undoes the release, runs the tail."""

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
from cloud_server.tails import Tail, TailId, TailSet, UnknownReleaseError
from split_model.arrays import Array
from split_model.errors import SplitModelError
from split_model.protocol import messages as wire
from split_model.service.heartbeats import Heartbeats
from split_model.service.throttle import PER_FRAME

_log = logging.getLogger(__name__)

#: Seconds to load and run a tail, after which it counts as stuck.
_TAIL_WITHIN_S = 120.0
#: Runs after which a tail's time counts as known, and the weight of one more run.
_KNOWN_AFTER, _MOVES = 4, 0.25
#: A run up to this many times the mean of its tail is charged as the mean; the second is the mean's update weight.
_EVEN, _EVEN_MOVES = 2.0, 0.01
#: Batch size for several short frames of one tail. Measured for the tail at cut 59 of EfficientNet-Lite0: 0.028 ms
#: per #: frame instead of 0.09, as the weights are read once; batches of eight gain no more.
BATCH = 4


class RunTimes:
    """The recent CPU time of each tail, in seconds. Pure."""

    def __init__(self) -> None:
        self._known: dict[TailId, tuple[int, float]] = {}
        self._means: dict[TailId, float] = {}

    def note(self, tail: TailId, used_s: float) -> None:
        """Add a run. The usual time moves by a quarter of the difference: a far longer run counts at once."""
        runs, usual_s = self._known.get(tail, (0, used_s))
        self._known[tail] = runs + 1, usual_s + (used_s - usual_s) * _MOVES

    def usual_s(self, tail: TailId) -> float | None:
        """The usual time of a run; None before some were measured."""
        runs, usual_s = self._known.get(tail, (0, 0.0))
        return usual_s if runs >= _KNOWN_AFTER else None

    def charge_s(self, tail: TailId, used_s: float) -> float:
        """The seconds charged to the device of a run.

        Runs of one tail differ with the processor's other work. If each were charged its own time, some devices
        would miss a turn now and then by chance. A run that took much longer is charged in full: its device may
        have asked for a plan that had to be made.
        """
        mean_s = self._means.get(tail, used_s)
        if used_s > _EVEN * mean_s:
            self._means[tail] = mean_s + _EVEN_MOVES * mean_s
            return used_s
        self._means[tail] = mean_s + _EVEN_MOVES * (used_s - mean_s)
        return mean_s


class Ran(NamedTuple):
    """A job that was run. ``used_s``: charged to its device. ``busy_s``: its duration.

    ``loaded``: its tail had to be loaded first.
    """

    outcome: Outcome
    used_s: float
    busy_s: float
    loaded: bool


class TailRunner:
    """Runs jobs; thread-safe. ``beats`` watches that every tail ends.

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
        self._batches: dict[TailId, bool] = {}  # whether a tail can run several frames at once, if known
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
            ran: list[Ran] = []
            for group in self._groups(jobs):
                began_s, began_cpu_s = self._clock(), time.thread_time()
                outcomes, was_loaded = self._run_group(group)
                busy_s = (self._clock() - began_s) / len(group)
                used_s = busy_s  # includes loading and plans
                if was_loaded:  # excludes waiting for a processor, which is not the job's
                    cpu_s = (time.thread_time() - began_cpu_s) * self._tail_threads / len(group)
                    self.times.note(group[0].tail.id, min(busy_s, cpu_s))
                    used_s = self.times.charge_s(group[0].tail.id, min(busy_s, cpu_s))
                ran += [Ran(outcome, used_s, busy_s, not was_loaded) for outcome in outcomes]
        return ran

    def _groups(self, jobs: Sequence[Job]) -> list[Sequence[Job]]:
        """Group jobs to run together: of one tail, up to a batch."""
        groups: list[list[Job]] = []
        for job in jobs:
            last = groups[-1] if groups else []
            if (
                last
                and len(last) < BATCH
                and last[0].tail is job.tail
                and self._batches.get(job.tail.id) is not False
            ):
                last.append(job)
            else:
                groups.append([job])
        return list(groups)

    def _run_group(self, group: Sequence[Job]) -> tuple[list[Outcome], bool]:
        """Run one job, or several of one tail. Returns the outcomes, and whether the tail was loaded before."""
        if len(group) > 1:
            features = [self._features(job) for job in group]
            if all(isinstance(one, list) for one in features):
                found = self._run_batch(group, [one for one in features if isinstance(one, list)])
                if found is not None:
                    return found
        ran = [self._run(job) for job in group]
        return [outcome for outcome, _ in ran], all(was_loaded for _, was_loaded in ran)

    def _features(self, job: Job) -> list[Array] | None:
        """A job's features; None if they cannot be recovered (`_run` reports the reason)."""
        try:
            return self.tails.features(job.tail, job.release, job.payload, device=job.device)
        except (SplitModelError, ValueError):
            return None

    def _run_batch(self, group: Sequence[Job], features: list[list[Array]]) -> tuple[list[Outcome], bool] | None:
        """Run several jobs as a batch; None if this tail cannot, which is then not tried again.

        The first batch of a tail is also run frame by frame: the outputs have to be the same to the last bit.
        """
        tail, started_s = group[0].tail, self._clock()
        try:
            borrowed = self._pool.borrow(tail, device=group[0].device, batch=BATCH)
        except SplitModelError:
            self._batches[tail.id] = False
            return None
        try:
            spare = BATCH - len(features)
            rows = [
                np.concatenate([*arrays, *[np.zeros_like(arrays[0])] * spare])
                for arrays in zip(*features, strict=True)
            ]
            outputs = borrowed.interpreter.run(rows)
            apart = [[output[number : number + 1] for output in outputs] for number in range(len(group))]
            if tail.id not in self._batches:
                self._batches[tail.id] = self._is_same(tail, features, apart)
        except SplitModelError:
            self._batches[tail.id] = False
        finally:
            self._pool.give_back(borrowed)
        if not self._batches[tail.id]:
            return None
        done = [self._done(job, of, started_s) for job, of in zip(group, apart, strict=True)]
        return list(done), not borrowed.fresh

    def _is_same(self, tail: Tail, features: list[list[Array]], apart: list[list[Array]]) -> bool:
        """Whether the tail gives the same outputs frame by frame."""
        borrowed = self._pool.borrow(tail, device="")
        try:
            singly = [borrowed.interpreter.run(of) for of in features]
        finally:
            self._pool.give_back(borrowed)
        return all(
            len(one) == len(other)
            and all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))
            for one, other in zip(singly, apart, strict=True)
        )

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
        started_s = self._clock()  # loading counts as waiting: it is not part of this tail's run time
        features = self.tails.features(job.tail, job.release, job.payload, device=job.device)
        return self._done(job, borrowed.interpreter.run(features), started_s)

    def _done(self, job: Job, outputs: list[Array], started_s: float) -> Done:
        return Done(
            job_id=job.job_id,
            tensors=tuple([_tensor(output.dtype.char, output.shape) for output in outputs]),
            payload=b"".join([output.tobytes() for output in outputs]),
            queue_s=max(0.0, started_s - job.queued_s),
            tail_s=max(0.0, self._clock() - started_s),
        )


@lru_cache(maxsize=256)
def _tensor(dtype_char: str, shape: tuple[int, ...]) -> wire.AnswerTensor:
    """Describe an output; cached, as naming a dtype in NumPy takes longer than the rest of an answer."""
    return wire.AnswerTensor(dtype=np.dtype(dtype_char).name, shape=shape)


def _named(job: Job) -> tuple[int, str]:
    return job.tail.cut.index, job.tail.bundle.manifest.name

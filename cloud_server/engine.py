"""The interface of an engine, which runs tails, and the engine that uses this machine's cores.

An engine accepts jobs and returns exactly one outcome for each that was not cancelled. It has no devices and no
sockets; a cluster can replace it behind the same interface.
"""

# Over 300 lines: the interface of an engine and the workers that have its lock.

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np

from cloud_server.dispatcher import Dispatcher
from cloud_server.jobs import Done, Failed, Job, Outcome, expired, failed
from cloud_server.tail_pool import TailPool
from cloud_server.tail_runner import Ran, TailRunner
from cloud_server.tails import Tail, TailSet
from split_model.protocol import messages as wire
from split_model.protocol.server import Denial
from split_model.service.heartbeats import Heartbeats
from split_model.service.stoppable_thread import StoppableThread
from split_model.service.throttle import PER_FRAME

__all__ = ["Done", "Engine", "Failed", "Job", "LocalEngine", "Outcome"]

_log = logging.getLogger(__name__)

#: Nice value of workers relative to the gateway, which has little work but delays every request.
_NICER = 5
#: Nice value of the workers other than the one kept for keys that use little.
_NICEST = 10
#: Seconds after which a worker that may take none of the waiting jobs checks again.
_LOOK_AGAIN_S = 0.1
#: Maximum seconds of a short tail: handing a job to another thread takes about as long.
SHORT_S = 0.5e-3
#: Approximate seconds for which a thread runs short jobs in one turn.
_TURN_S = 1e-3
#: Seconds of short work that may wait for `run_short` before a worker is woken: a second thread makes all of it a
#: #: third slower, because of the GIL.
_LEFT_S = 50e-3


class Engine(Protocol):
    """The engine as the gateway uses it. All methods return at once."""

    def denial(self, device: str, tail: Tail, *, due_in_s: float) -> Denial | None:
        """Why a request that comes now is refused; None if it can be answered in time."""

    def load(self, device: str, tail: Tail, *, due_in_s: float) -> wire.Load:
        """The load report for a device that asks before it sends."""

    def load_after(self, device: str, tail: Tail, *, due_in_s: float) -> wire.Load:
        """The load report sent with an answer: expected wait, and seconds to stay away if the queue stays long."""

    def submit(self, job: Job) -> bool:
        """Accept a job; False if the queue has no place for this device."""

    def cancel(self, job_id: int) -> bool:
        """Cancel a job. Returns whether it runs already, and so will deliver its outcome."""

    def host(self, tails: TailSet) -> None:
        """Host other tails from now on. Loaded ones stay while there is room."""

    def run_short(self) -> list[Outcome]:
        """Run some very short waiting jobs in the caller's thread, for a millisecond at most.

        The gateway calls it after each batch of messages. Such jobs need no hand-over to another thread.
        """

    @property
    def short(self) -> bool:
        """Whether jobs wait for `run_short`."""

    @property
    def queued(self) -> int:
        """Jobs waiting."""

    @property
    def running(self) -> int:
        """Jobs being run."""

    @property
    def workers(self) -> int:
        """Jobs that can run at a time, now."""

    @property
    def nodes(self) -> int:
        """Number of machines that run tails now."""

    def start(self, *, preload: bool) -> None:
        """Start; with ``preload``, first load and run every tail, and raise the error if one fails."""

    def close(self) -> None:
        """Accept no more jobs, and stop when the running ones are done."""

    def join(self, timeout_s: float) -> None:
        """Wait for the running jobs after `close`; one that takes too long is abandoned."""


class _Worker:
    """A worker thread's condition; every call needs the engine's lock."""

    def __init__(self, *, kept: bool, lock: threading.Lock) -> None:
        self.kept = kept
        self.idle = False
        self._woken = threading.Condition(lock)

    def wait(self, timeout_s: float | None) -> None:
        """Wait for `wake`, or until the time is over."""
        self.idle = True
        self._woken.wait(timeout_s)
        self.idle = False

    def wake(self) -> None:
        """Wake the worker: there is a job, or the engine closes."""
        self.idle = False
        self._woken.notify()


class LocalEngine:
    """Worker threads that share a pool of interpreters; the `Dispatcher` chooses their next job.

    TFLite releases the GIL while it computes.

    Args:
        tails: The hosted tails.
        deliver: Called from worker threads with every outcome.
        clock: Monotonic seconds.
        threads: Workers.
        tail_threads: Threads of one interpreter.
        queue: Places for waiting jobs.
        cache_bytes: Limit of the memory of all interpreters (`TailPool`).
        held_bytes: Memory of this process besides the interpreters.
        short_s: Jobs with tails up to this time are left to `run_short`; 0 if it is never called.
        weight_of: A device's weight, by its key.
        beats: Watches that every tail ends.

    """

    def __init__(
        self,
        tails: TailSet,
        *,
        deliver: Callable[[Outcome], None],
        clock: Callable[[], float],
        threads: int,
        tail_threads: int,
        queue: int,
        cache_bytes: int,
        held_bytes: Callable[[], int] = lambda: 0,
        short_s: float = 0.0,
        weight_of: Callable[[str], int] = lambda _: 1,
        beats: Heartbeats | None = None,
    ) -> None:
        self._tails = tails
        self._deliver = deliver
        self._clock = clock
        self._short_s = short_s
        self._dispatcher = Dispatcher(queue, workers=threads, weight_of=weight_of)
        self._jobs: dict[int, Job] = {}
        self._short: set[int] = set()  # waiting jobs that `run_short` may run
        self._closed = False
        self._count = threads
        self._lock = threading.Lock()
        self._pool = TailPool(cache_bytes, tail_threads=tail_threads, clock=clock, held_bytes=held_bytes)
        self._runner = TailRunner(
            tails, self._pool, clock=clock, tail_threads=tail_threads, beats=beats or Heartbeats()
        )
        # If there are several, one is kept for keys that use little. It is woken last.
        self._workers = [_Worker(kept=number == threads - 1 > 0, lock=self._lock) for number in range(threads)]
        self._threads = [
            StoppableThread(f"tail-{number}", partial(self._work, worker))
            for number, worker in enumerate(self._workers)
        ]

    def start(self, *, preload: bool) -> None:
        """See `Engine.start`."""
        for tail in self._tails.every() if preload else ():
            borrowed = [self._pool.borrow(tail, device="") for _ in range(self._count)]
            for one in borrowed:
                one.interpreter.run([np.zeros(spec.shape, spec.dtype) for spec in one.interpreter.inputs])
            for one in borrowed:
                self._pool.give_back(one)
        for thread in self._threads:
            thread.start()

    def host(self, tails: TailSet) -> None:
        """See `Engine.host`."""
        self._tails = self._runner.tails = tails

    def denial(self, device: str, tail: Tail, *, due_in_s: float) -> Denial | None:
        """See `Engine.denial`."""
        with self._lock:
            return self._dispatcher.denial(device, tail.id, due_in_s=due_in_s, now_s=self._clock())

    def load(self, device: str, tail: Tail, *, due_in_s: float) -> wire.Load:
        """See `Engine.load`."""
        with self._lock:
            return self._dispatcher.load(device, tail.id, due_in_s=due_in_s, now_s=self._clock())

    def load_after(self, device: str, tail: Tail, *, due_in_s: float) -> wire.Load:
        """See `Engine.load_after`."""
        with self._lock:
            return self._dispatcher.load_after(device, tail.id, due_in_s=due_in_s, now_s=self._clock())

    def submit(self, job: Job) -> bool:
        """See `Engine.submit`. A job displaced by this one is delivered as expired or busy."""
        with self._lock:
            if self._closed:
                return False
            offered = self._dispatcher.offer(job, self._clock())
            late = [self._forget(job_id) for job_id in offered.late]
            displaced = None if offered.displaced is None else self._forget(offered.displaced)
            if offered.accepted:
                self._jobs[job.job_id] = job
                usual_s = self._runner.times.usual_s(job.tail.id) if self._short_s else None
                if usual_s is not None and usual_s <= self._short_s:
                    self._short.add(job.job_id)
                else:
                    self._wake()
        for waiting in late:
            self._deliver(expired(waiting))
        if displaced is not None:
            text = "the queue is full; another of your requests, or a device with fewer of them, took the place"
            self._deliver(failed(displaced, text, code="busy"))
        return offered.accepted

    def cancel(self, job_id: int) -> bool:
        """See `Engine.cancel`."""
        with self._lock:
            if job_id in self._jobs:
                self._forget(job_id)
            return self._dispatcher.cancel(job_id)

    def run_short(self) -> list[Outcome]:
        """See `Engine.run_short`. It takes jobs as the kept worker does, so no key loses its turn."""
        if not self._short:
            return []
        with self._lock:
            now_s = self._clock()
            late = [self._forget(job_id) for job_id in self._dispatcher.late(now_s)]
            jobs, is_over = self._take_short(now_s, kept=True)
            self._leave_to_workers(is_over=is_over)
        ran = self._runner.run_all(jobs)
        with self._lock:
            self._finish(jobs, ran)
        return [expired(waiting) for waiting in late] + [one.outcome for one in ran]

    @property
    def short(self) -> bool:
        """See `Engine.short`."""
        return bool(self._short)

    @property
    def queued(self) -> int:
        """Jobs waiting."""
        return len(self._jobs)

    @property
    def running(self) -> int:
        """Jobs being run."""
        return self._dispatcher.running

    @property
    def workers(self) -> int:
        """Threads."""
        return self._count

    @property
    def nodes(self) -> int:
        """Machines: one."""
        return 1

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            self._closed = True
            self._dispatcher.clear()
            self._jobs.clear()
            self._short.clear()
            for worker in self._workers:
                worker.wake()

    def join(self, timeout_s: float) -> None:
        """See `Engine.join`."""
        for thread in self._threads:
            thread.stop(timeout_s / len(self._threads))

    def _forget(self, job_id: int) -> Job:
        """Remove a waiting job."""
        self._short.discard(job_id)
        return self._jobs.pop(job_id)

    def _take(self, now_s: float, *, kept: bool, only: Callable[[int], bool] | None = None) -> Job | None:
        job_id = self._dispatcher.take(now_s, kept=kept, only=only)
        return None if job_id is None else self._forget(job_id)

    def _take_short(self, now_s: float, *, kept: bool) -> tuple[list[Job], bool]:
        """Take short jobs for one turn; also return whether its time is over, so that more may wait."""
        jobs: list[Job] = []
        left_s = _TURN_S
        while left_s > 0.0 and (job := self._take(now_s, kept=kept, only=self._short.__contains__)) is not None:
            jobs.append(job)
            left_s -= self._usual_s(job)
        return jobs, left_s <= 0.0

    def _usual_s(self, job: Job) -> float:
        return self._runner.times.usual_s(job.tail.id) or self._short_s

    def _wake(self) -> None:
        """Wake one idle worker for a waiting job; the kept one only if no other is idle."""
        for worker in self._workers:
            if worker.idle:
                worker.wake()
                return

    def _leave_to_workers(self, *, is_over: bool) -> None:
        """Leave the short jobs that the gateway did not run to its next turn, or wake a worker for them."""
        if not is_over:
            for _ in self._short:
                self._wake()
            self._short.clear()
        elif self._are_many_short():
            self._wake()

    def _are_many_short(self) -> bool:
        """Whether there are more short jobs than one thread should do."""
        return bool(self._short) and len(self._short) * self._usual_s(self._jobs[next(iter(self._short))]) > _LEFT_S

    def _next(self, worker: _Worker) -> list[Job]:
        """Wait for the next job, or several short ones; none if the engine is closed."""
        while True:
            with self._lock:
                if self._closed:
                    return []
                now_s = self._clock()
                late = [self._forget(job_id) for job_id in self._dispatcher.late(now_s)]
                jobs = self._take_for(worker, now_s)
                if not jobs and not late:
                    worker.wait(_LOOK_AGAIN_S if self._jobs else None)
            for waiting in late:
                self._deliver(expired(waiting))
            if jobs:
                return jobs

    def _take_for(self, worker: _Worker, now_s: float) -> list[Job]:
        """Take a job for a worker; short ones only if they are too many for the gateway, and then several."""
        if self._are_many_short() and (jobs := self._take_short(now_s, kept=worker.kept)[0]):
            return jobs
        only = self._is_for_workers if self._short else None
        job = self._take(now_s, kept=worker.kept, only=only)
        return [] if job is None else [job]

    def _is_for_workers(self, job_id: int) -> bool:
        return job_id not in self._short

    def _work(self, worker: _Worker) -> None:
        _be_nicer(_NICER if worker.kept or self._count == 1 else _NICEST)
        while jobs := self._next(worker):
            ran = self._runner.run_all(jobs)
            with self._lock:
                self._finish(jobs, ran)
            for one in ran:
                self._deliver(one.outcome)

    def _finish(self, jobs: list[Job], ran: list[Ran]) -> None:
        now_s = self._clock()
        for job, one in zip(jobs, ran, strict=True):
            self._dispatcher.ended(job.job_id, used_s=one.used_s, busy_s=one.busy_s, loaded=one.loaded, now_s=now_s)
        if len(self._jobs) > len(self._short):
            self._wake()  # the other workers may not have been allowed its key


def _be_nicer(by: int) -> None:
    """Lower the priority of this thread."""
    thread = threading.get_native_id()
    try:
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + by)
    except PermissionError:
        _log.warning(
            "this process may not set the priority of its threads; allow the system call setpriority",
            extra=PER_FRAME,
        )

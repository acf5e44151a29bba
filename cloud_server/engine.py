"""Where tails run: the interface of an engine, and the one that uses this machine's cores.

An engine takes jobs and hands back exactly one outcome for each that it accepted and that was not cancelled.
It knows nothing of devices and sockets; a cluster can stand in for it behind the same interface.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from cloud_server.dispatcher import Dispatcher
from cloud_server.loaded_tails import LoadedTails
from cloud_server.tails import Tail, TailId, TailSet, UnknownReleaseError
from split_model.errors import SplitModelError
from split_model.protocol import messages as wire
from split_model.protocol.server import Denial
from split_model.service.heartbeats import Heartbeats
from split_model.service.stoppable_thread import StoppableThread
from split_model.service.throttle import PER_FRAME

_log = logging.getLogger(__name__)

#: The folders of an absolute path in a text.
_FOLDERS = re.compile(r"(?<![\w.~-])/(?:[^\s/:;,'\"()]+/)+")

#: A tail that takes longer to load and run is stuck.
_TAIL_WITHIN_S = 120.0
#: How much nicer workers are than the gateway: it has little to do, and everybody waits for it.
_NICER = 5
#: And the other workers than the one that is kept for keys that do not use much.
_NICEST = 10
#: A worker that may take none of the waiting jobs looks again after this time.
_LOOK_AGAIN_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Job:
    """One tail to run. ``due_s``: on the engine's clock, when nobody wants the answer any more.

    ``device``: the key it is for. Keys share the workers, the queue and the plan cache equally.
    """

    job_id: int
    device: str
    tail: Tail
    release: wire.Release
    payload: bytearray
    queued_s: float
    due_s: float

    @property
    def tail_id(self) -> TailId:
        """What names its tail."""
        return self.tail.id


@dataclass(frozen=True, kw_only=True)
class Done:
    """The outputs of a job, one after another in ``payload``, and how long it waited and ran."""

    job_id: int
    tensors: tuple[wire.AnswerTensor, ...]
    payload: bytes
    queue_s: float
    tail_s: float


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A job that has no outputs, and why."""

    job_id: int
    code: wire.RefusalCode
    text: str


Outcome = Done | Failed


class Engine(Protocol):
    """What the gateway needs of an engine. All methods return at once."""

    def denial(self, device: str, tail: Tail, *, due_in_s: float) -> Denial | None:
        """Why a request of a device that comes now is refused, or None where it can be answered in time."""

    def load(self, device: str, tail: Tail, *, due_in_s: float) -> wire.Load:
        """What a device hears that asks before it sends."""

    def load_after(self, device: str, tail: Tail, *, due_in_s: float) -> wire.Load:
        """What a device hears with an answer."""

    def submit(self, job: Job) -> bool:
        """Take a job, or return False if the queue has no place for this device."""

    def cancel(self, job_id: int) -> bool:
        """Nobody wants this job any more. Returns whether it runs already, and so will deliver its outcome."""

    @property
    def queued(self) -> int:
        """Jobs waiting."""

    @property
    def running(self) -> int:
        """Jobs being run."""

    def close(self) -> None:
        """Take nothing more and stop when the running jobs are through."""


class LocalEngine:
    """Worker threads, each with interpreters of its own; the `Dispatcher` says what they do next.

    ``deliver`` is called from worker threads with every outcome. TFLite lets go of the GIL while it computes.
    ``beats`` expects every tail to end.
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
        beats: Heartbeats | None = None,
    ) -> None:
        self._beats = beats or Heartbeats()
        self._tails = tails
        self._deliver = deliver
        self._clock = clock
        self._dispatcher = Dispatcher(queue, workers=threads)
        self._tail_threads = tail_threads
        self._jobs: dict[int, Job] = {}
        self._closed = False
        self._changed = threading.Condition()
        self._loaded = [LoadedTails(tail_threads, cache_bytes // threads) for _ in range(threads)]
        self._threads = [
            StoppableThread(f"tail-{number}", partial(self._work, loaded, number == 0))
            for number, loaded in enumerate(self._loaded)
        ]

    def start(self, *, preload: bool) -> None:
        """Start the workers; with ``preload``, load and run every tail first and raise its error if one fails."""
        for loaded in self._loaded if preload else ():
            for tail in self._tails.every():
                interpreter = loaded.get(tail)
                interpreter.run([np.zeros(spec.shape, spec.dtype) for spec in interpreter.inputs])
        for thread in self._threads:
            thread.start()

    def host(self, tails: TailSet) -> None:
        """Other tails from now on. Those that are loaded stay so while there is room."""
        self._tails = tails

    def denial(self, device: str, tail: Tail, *, due_in_s: float) -> Denial | None:
        """See `Engine.denial`."""
        with self._changed:
            return self._dispatcher.denial(device, tail.id, due_in_s=due_in_s, now_s=self._clock())

    def load(self, device: str, tail: Tail, *, due_in_s: float) -> wire.Load:
        """See `Engine.load`."""
        with self._changed:
            return self._dispatcher.load(device, tail.id, due_in_s=due_in_s, now_s=self._clock())

    def load_after(self, device: str, tail: Tail, *, due_in_s: float) -> wire.Load:
        """See `Engine.load_after`."""
        with self._changed:
            return self._dispatcher.load_after(device, tail.id, due_in_s=due_in_s, now_s=self._clock())

    def submit(self, job: Job) -> bool:
        """See `Engine.submit`. A job that loses its place to this one is delivered as expired or busy."""
        with self._changed:
            if self._closed:
                return False
            offered = self._dispatcher.offer(job, self._clock())
            late = [self._jobs.pop(job_id) for job_id in offered.late]
            displaced = None if offered.displaced is None else self._jobs.pop(offered.displaced)
            if offered.accepted:
                self._jobs[job.job_id] = job
                self._changed.notify_all()  # not every worker may take it
        for waiting in late:
            self._deliver(_late(waiting))
        if displaced is not None:
            text = "the queue is full and another of your requests or a device with fewer of them took the place"
            self._deliver(_failed(displaced, text, code="busy"))
        return offered.accepted

    def cancel(self, job_id: int) -> bool:
        """See `Engine.cancel`."""
        with self._changed:
            self._jobs.pop(job_id, None)
            return self._dispatcher.cancel(job_id)

    @property
    def queued(self) -> int:
        """Jobs waiting."""
        return len(self._jobs)

    @property
    def running(self) -> int:
        """Jobs being run."""
        return self._dispatcher.running

    def close(self) -> None:
        """See `Engine.close`."""
        with self._changed:
            self._closed = True
            self._dispatcher.clear()
            self._jobs.clear()
            self._changed.notify_all()

    def join(self, timeout_s: float) -> None:
        """Wait for the workers after `close`; one whose tail still runs by then is left behind."""
        for thread in self._threads:
            thread.stop(timeout_s / len(self._threads))

    def _next(self, *, kept: bool) -> Job | None:
        while True:
            with self._changed:
                if self._closed:
                    return None
                now_s = self._clock()
                late = [self._jobs.pop(job_id) for job_id in self._dispatcher.late(now_s)]
                job_id = self._dispatcher.take(now_s, kept=kept)
                job = None if job_id is None else self._jobs.pop(job_id)
                if job is None and not late:
                    self._changed.wait(_LOOK_AGAIN_S if self._jobs else None)
            for waiting in late:
                self._deliver(_late(waiting))
            if job is not None:
                return job

    def _work(self, loaded: LoadedTails, first: bool) -> None:
        name = threading.current_thread().name
        _be_nicer(_NICER if first else _NICEST)
        while (job := self._next(kept=first and len(self._loaded) > 1)) is not None:
            taken_s, taken_cpu_s, loads = self._clock(), time.thread_time(), loaded.loads
            try:
                with self._beats.work(f"{name}, cut {job.tail.cut.index}", within_s=_TAIL_WITHIN_S):
                    outcome = self._run(job, loaded)
            except UnknownReleaseError as error:
                outcome = _failed(job, str(error), code="unknown_release")
            except SplitModelError as error:
                bundle = job.tail.bundle.manifest.name
                _log.warning("tail %s of %s: %s", job.tail.cut.index, bundle, error, extra=PER_FRAME)
                outcome = _failed(job, error.problem)
            except Exception as error:  # noqa: BLE001  (one bad tail must not end the worker; the device is told)
                bundle = job.tail.bundle.manifest.name
                _log.exception("tail %s of %s", job.tail.cut.index, bundle, extra=PER_FRAME)
                outcome = _failed(job, f"{type(error).__name__}: {error}")
            with self._changed:
                now_s = self._clock()
                used_s = now_s - taken_s  # loading and plans are its time too
                has_loaded = loads != loaded.loads
                if not has_loaded:  # but not waiting for a processor, for that says nothing about the job
                    used_s = min(used_s, (time.thread_time() - taken_cpu_s) * self._tail_threads)
                self._dispatcher.ended(job.job_id, used_s=used_s, loaded=has_loaded, now_s=now_s)
                self._changed.notify_all()  # its key may have been kept from the other workers
            self._deliver(outcome)

    def _run(self, job: Job, loaded: LoadedTails) -> Outcome:
        interpreter = loaded.get(job.tail)
        started_s = self._clock()  # loading is waiting: it says nothing about how long this tail runs
        features = self._tails.features(job.tail, job.release, job.payload, device=job.device)
        outputs = interpreter.run(features)
        payload = b"".join(output.tobytes() for output in outputs)
        return Done(
            job_id=job.job_id,
            tensors=tuple(wire.AnswerTensor(dtype=o.dtype.name, shape=tuple(o.shape)) for o in outputs),
            payload=payload,
            queue_s=max(0.0, started_s - job.queued_s),
            tail_s=max(0.0, self._clock() - started_s),
        )


def _be_nicer(by: int) -> None:
    """Let the other threads go before this one."""
    thread = threading.get_native_id()
    try:
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + by)
    except PermissionError:
        _log.warning("may not set the priority of its threads; allow the system call setpriority", extra=PER_FRAME)


def _late(job: Job) -> Failed:
    text = "no worker was free early enough to answer in time"
    return Failed(job_id=job.job_id, code="expired", text=text)


def _failed(job: Job, text: str, *, code: wire.RefusalCode = "failed") -> Failed:
    """What the device is told: the problem, and nothing of where files lie on this machine."""
    told = text.replace(f"{job.tail.bundle.root}/", "")
    return Failed(job_id=job.job_id, code=code, text=" ".join(_FOLDERS.sub("", told).split())[:1000])

"""Takes the readings for the load factor ten times a second, independently of the frame loop.

Linux tells in `/proc/self/task/TID/schedstat` how long a thread ran and how long it was ready without a CPU.
With one thread an inference runs in the thread that calls it: `Board.run` notes which ones those are. With more,
the backend has a pool, whose threads are those of this process that neither Python nor ZeroMQ started.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from edge_runtime.board.board import RealBoard
from edge_runtime.board.cpu_load import CpuReadings, LoadEstimator, Spin, ThreadTimes
from edge_runtime.board.cpu_speed import clock_limit_mhz, spin
from split_model.service.stoppable_thread import StoppableThread

log = logging.getLogger(__name__)

_TASKS = Path("/proc/self/task")
#: How often it looks.
EVERY_S = 0.1
#: Everything but the threads' times changes slowly, or is noise over shorter times.
_REST_EVERY_S = 0.5
#: A spin waits up to 2 s for an idle board. Then it runs beside the work, which its CPU time does not show.
_SPIN_WITHIN_S = 2.0
_ZEROMQ = "ZMQbg"


class LoadReader:
    """Reads it all.

    Args:
        board: knows the threads that inferences were called in.
        has_pool: inferences have more threads than the one that calls.
        tasks: where the kernel has this process's threads.
        clock_mhz: reads the clock's limit.
        make_spin: does the fixed piece of work.

    """

    def __init__(
        self,
        board: RealBoard,
        *,
        has_pool: bool = False,
        tasks: Path = _TASKS,
        clock_mhz: Callable[[], float | None] = clock_limit_mhz,
        make_spin: Callable[[], Spin] = spin,
    ) -> None:
        self._board = board
        self._has_pool = has_pool
        self._tasks = tasks
        self._clock_mhz = clock_mhz
        self._spin = make_spin
        self._has_times = (tasks / str(threading.get_native_id()) / "schedstat").is_file()
        if not self._has_times:
            log.warning(
                "this kernel does not tell how long threads wait for a CPU (no schedstat): the load is taken from "
                "a timed spin and from what other programs use"
            )
        self._rest_s = self._spun_s = -float("inf")
        self._latest_clock: float | None = None
        self._own_s = time.process_time()
        self._busy_s, self._all_s = _cpu_seconds()

    def read(self) -> CpuReadings:
        """One look now."""
        now_s = time.monotonic()
        others = cpu_load = made = None
        if now_s - self._rest_s >= _REST_EVERY_S:
            self._rest_s = now_s
            others, cpu_load = self._usage()
            self._latest_clock = self._clock_mhz()
        if now_s - self._spun_s >= (_SPIN_WITHIN_S if self._board.busy else _REST_EVERY_S):
            self._spun_s, made = now_s, self._spin()
        threads = self._threads() if self._has_times else None
        return CpuReadings(time.monotonic(), threads, others, cpu_load, self._latest_clock, made)

    def _usage(self) -> tuple[float | None, float | None]:
        """CPUs that others used since the last call, and the share of all CPUs in use."""
        own_s, (busy_s, all_s) = time.process_time(), _cpu_seconds()
        span_s, used_s, ours_s = all_s - self._all_s, busy_s - self._busy_s, own_s - self._own_s
        self._own_s, self._busy_s, self._all_s = own_s, busy_s, all_s
        if span_s <= 0.0:
            return None, None
        cpus = os.cpu_count() or 1
        return max(0.0, used_s - ours_s) * cpus / span_s, min(1.0, max(0.0, used_s / span_s))

    def _threads(self) -> dict[int, ThreadTimes]:
        return {thread: times for thread in self._inference() if (times := self._times(thread)) is not None}

    def _inference(self) -> Iterator[int]:
        """The threads that may compute inferences: those that called for one, and the backend's own."""
        callers = self._board.threads
        yield from callers
        if not self._has_pool:
            return
        pythons = {thread.native_id for thread in threading.enumerate()}
        with contextlib.suppress(OSError):
            for task in self._tasks.iterdir():
                if int(task.name) not in pythons and int(task.name) not in callers and not _is_zeromq(task):
                    yield int(task.name)

    def _times(self, thread: int) -> ThreadTimes | None:
        try:
            run_ns, wait_ns, slices = (self._tasks / str(thread) / "schedstat").read_bytes().split()
            return ThreadTimes(int(run_ns) / 1e9, int(wait_ns) / 1e9, int(slices))
        except (OSError, ValueError):  # it has ended
            return None


class LoadWatch(StoppableThread):
    """Keeps an estimator up to date until `stop`."""

    def __init__(self, reader: LoadReader, estimator: LoadEstimator, *, every_s: float = EVERY_S) -> None:
        super().__init__("load")
        self._reader = reader
        self._estimator = estimator
        self._every_s = every_s

    def run(self) -> None:
        """Read until `stop`."""
        while not self.stopping.is_set():
            self._estimator.read(self._reader.read())
            self.stopping.wait(self._every_s)


def usable_cpus() -> int:
    """How many CPUs this program may use."""
    return len(os.sched_getaffinity(0))


def _is_zeromq(task: Path) -> bool:
    try:
        return (task / "comm").read_text(encoding="ascii", errors="replace").startswith(_ZEROMQ)
    except OSError:
        return True


def _cpu_seconds() -> tuple[float, float]:
    """Busy seconds and all seconds of all CPUs since boot; guest time is part of user time already."""
    times = psutil.cpu_times()
    total = sum(value for name, value in times._asdict().items() if not name.startswith("guest"))
    return total - times.idle - getattr(times, "iowait", 0.0), total

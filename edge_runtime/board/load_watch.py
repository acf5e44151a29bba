"""A thread that reads the inputs of the load factor ten times a second, beside the frame loop.

`/proc/stat` has the number of threads that run or wait for a CPU at this moment, and `/proc/self/task/TID/stat`
whether one of our own threads does. Processes that we started are ours too: the one that reads a camera takes
longer for some pictures than for others.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from edge_runtime.board.board import RealBoard
from edge_runtime.board.cpu_load import CpuReadings, LoadEstimator, Spin
from edge_runtime.board.cpu_quota import usable_cpus
from edge_runtime.board.cpu_speed import Clock, read_clock, settled_spin, spin
from edge_runtime.board.kernel_counts import PROC, busy_share, cpu_seconds
from edge_runtime.board.throttling import ThrottleFlags, Throttling
from split_model.service.stoppable_thread import StoppableThread

_RUNNING = b"procs_running "
#: Seconds between two readings.
EVERY_S = 0.1
#: Seconds between two readings of everything but the other threads: it changes slowly, or is noise over less time.
_REST_EVERY_S = 0.5
#: Processes that we start live long, and to look for them is to look at all there are.
_CHILDREN_EVERY_S = 5.0
#: A spin waits this long for an idle board, and is then made beside the work: its CPU time does not see that.
_SPIN_WITHIN_S = 1.0
#: Seconds between two settled spins on a board that reports its clock, and while the firmware reports throttling.
#: The flags change at once, the speed itself goes up and down.
_SETTLED_EVERY_S = 4.0
_THROTTLED_EVERY_S = 1.0


_flags_of_files = ThrottleFlags(Path("/sys"), ask_firmware=lambda: None).read


class LoadReader:
    """Takes one set of readings at a time.

    Args:
        board: knows whether work is under way.
        proc: where the kernel tells of threads.
        clock: reads the clock and its limit.
        make_spin: does the fixed piece of work.
        throttling: reads the firmware's flags; by files alone, it is done twice a second.
        cpus: reads how many CPUs this program may use.
        now: the clock.

    """

    def __init__(
        self,
        board: RealBoard,
        *,
        proc: Path = PROC,
        clock: Callable[[], Clock | None] = read_clock,
        make_spin: Callable[[], Spin] = spin,
        throttling: Callable[[], Throttling | None] = _flags_of_files,
        cpus: Callable[[], float] = usable_cpus,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board = board
        self._proc = proc
        self._clock = clock
        self._spin = make_spin
        self._throttling = throttling
        self._cpus = cpus
        self._now = now
        self._rest_s = self._spun_s = self._counted_s = -float("inf")
        self._latest_clock: Clock | None = None
        self._spin_every_s = _REST_EVERY_S
        self._seconds = cpu_seconds(proc)
        self._children: tuple[Path, ...] = ()

    def read(self) -> CpuReadings:
        """Take one set of readings now."""
        now_s = self._now()
        cpu_load = made = cpus = None
        if now_s - self._counted_s >= _CHILDREN_EVERY_S:
            self._counted_s = now_s
            self._children = _children_of(self._proc)
        rivals = self._rivals()
        if now_s - self._rest_s >= _REST_EVERY_S:
            self._rest_s = now_s
            cpu_load = self._usage()
            self._latest_clock, cpus = self._clock(), self._cpus()
            self._spin_every_s = self._spins_due_s()
        if now_s - self._spun_s >= self._spin_every_s:
            self._spun_s = now_s
            made = self._spin() if self._latest_clock is None else settled_spin(self._spin, self._clock)
        limit_mhz = None if self._latest_clock is None else self._latest_clock.limit_mhz
        return CpuReadings(rivals, cpu_load, limit_mhz, made, cpus)

    def _spins_due_s(self) -> float:
        if self._latest_clock is None:
            return _SPIN_WITHIN_S if self._board.busy else _REST_EVERY_S
        flags = self._throttling()
        return _THROTTLED_EVERY_S if flags is not None and flags.now else _SETTLED_EVERY_S

    def _usage(self) -> float | None:
        """The share of all CPUs in use since the last call."""
        before, self._seconds = self._seconds, cpu_seconds(self._proc)
        return busy_share(before, self._seconds)

    def _rivals(self) -> float | None:
        """Count threads of other programs that run or wait for a CPU; the calling thread counts as ours."""
        try:
            lines = (self._proc / "stat").read_bytes().splitlines()
            running = next(int(line.split()[1]) for line in lines if line.startswith(_RUNNING))
            ours = sum(map(_wanting, (self._proc / "self", *self._children)))
        except (OSError, StopIteration, ValueError):
            return None
        return max(0.0, running - ours)


class LoadWatch(StoppableThread):
    """A thread that keeps a load estimator up to date until `stop`."""

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


def _children_of(proc: Path) -> tuple[Path, ...]:
    """The processes that this one started."""
    with contextlib.suppress(OSError):
        return tuple(path for path in proc.iterdir() if path.name.isdecimal() and _parent_of(path) == os.getpid())
    return ()


def _parent_of(process: Path) -> int | None:
    try:
        return int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):  # it has ended
        return None


def _wanting(process: Path) -> int:
    """Count the threads of a process that run or wait for a CPU; 0 if it has ended."""
    try:
        return sum(_wants_cpu(task / "stat") for task in (process / "task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _wants_cpu(stat: Path) -> bool:
    """Whether a thread runs or waits for a CPU; its name may have any bytes, brackets included."""
    try:
        return stat.read_bytes().rpartition(b")")[2].split()[:1] == [b"R"]
    except OSError:  # it has ended
        return False

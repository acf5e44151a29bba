"""How much longer work takes on this board now than when it was profiled. Pure: readings in, a factor out.

No reading depends on the content of frames. A head's time may depend on its frame (denormal numbers take a
processor several times as long), and the server sees the decisions that the load leads to. So no work on a frame is
timed here. The factor is the product of

    contention   1 + waiting / running of the inference threads: how long they were ready without a CPU. Both grow
                 with the work, so their ratio does not tell how much work it was. Work that is shorter than the
                 time slice of a scheduler still waits for a whole one of others: so running counts as at least
                 `_SLICE_S` each time that a thread got a CPU. Without work: the CPU time of other programs.
    slowness     the clock's limit when profiled over the limit now or, without one, the CPU time of a fixed piece
                 of work (`Spin`) over its profiled time.

The content still changes the noise of the ratio, by delays at wake-ups and by time slices of other lengths than
`_SLICE_S`. So a factor below `_LEAST` counts as no load, and a change below `_CHANGE` as no change: on a board
without other load the factor is 1 for all frames.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

#: Linux lets a thread run for this long before it lets others: a tick of 4 ms, or a base slice of about 3 ms.
_SLICE_S = 0.004
#: An interval tells of contention only if the inference threads ran for this long in it.
_LEAST_RUN_S = 0.001
#: Contention is averaged over this many intervals between readings. Without a new one for `_STALE_S` it is unknown.
_INTERVALS = 3
_STALE_S = 2.0
#: An interval with this much running and waiting shows by itself that a hog came or went.
_FULL_S = 0.05
#: A factor below `_LEAST` counts as no load. The factor changes only by more than `_CHANGE` times.
_LEAST = 1.2
_CHANGE = 1.1
#: A change of this many times is a step: a hog came or went, and older intervals do not count any more.
_STEP = 1.25
#: The fastest of the last four spins counts: any one may have had a cold cache, or shared its core.
_SPINS = 4
_FACTORS = (0.5, 50.0)


@dataclass(frozen=True)
class Spin:
    """A fixed piece of work of about a millisecond: its wall time and its CPU time, in seconds."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Speed:
    """The processor's speed when the board was profiled; None where that is not known."""

    spin_s: float | None = None
    clock_mhz: float | None = None


@dataclass(frozen=True)
class ThreadTimes:
    """A thread's time since its start: with a CPU, ready and waiting for one; and how often it got one."""

    run_s: float
    wait_s: float
    slices: int


@dataclass(frozen=True)
class CpuReadings:
    """One look at what the load is taken from; None where this board does not tell.

    Args:
        at_s: when, by any steady clock.
        threads: the inference threads, by their id.
        others: CPUs that other programs used since the look before, on average.
        cpu_load: share of all CPUs in use since the look before, 0 to 1.
        clock_mhz: what the processor may reach now.
        spin: the newest one, if one was made since the look before.

    """

    at_s: float
    threads: Mapping[int, ThreadTimes] | None = None
    others: float | None = None
    cpu_load: float | None = None
    clock_mhz: float | None = None
    spin: Spin | None = None


@dataclass
class _Interval:
    """Between two readings; ``granted_s``: what the time slices were, or would have been for longer work."""

    run_s: float = 0.0
    granted_s: float = 0.0
    wait_s: float = 0.0

    @property
    def contention(self) -> float:
        return 1.0 + self.wait_s / self.granted_s

    def __add__(self, other: _Interval) -> _Interval:
        return _Interval(self.run_s + other.run_s, self.granted_s + other.granted_s, self.wait_s + other.wait_s)


@dataclass
class _Contention:
    """Contention from the intervals between readings."""

    cpus: int
    intervals: deque[_Interval] = field(default_factory=lambda: deque(maxlen=_INTERVALS))
    threads: Mapping[int, ThreadTimes] | None = None
    at_s: float = -math.inf
    ran_s: float = -math.inf

    def read(self, threads: Mapping[int, ThreadTimes], at_s: float) -> None:
        before, self.threads = self.threads, threads
        span_s, self.at_s = at_s - self.at_s, at_s
        if before is None or not before.keys() >= threads.keys():  # times of a new thread have no start
            return
        deltas = [_interval(before[thread], now) for thread, now in threads.items()]
        # More of our own threads than CPUs wait for each other. That is no load, and depends on the work.
        if sum(one.run_s + one.wait_s > 0.1 * span_s for one in deltas) > self.cpus:
            return
        interval = sum(deltas, start=_Interval())
        if interval.run_s < _LEAST_RUN_S:
            return
        is_full = interval.run_s + interval.wait_s >= _FULL_S
        if is_full and self.intervals and _apart(interval.contention, self.factor) > _STEP:
            self.intervals.clear()
        self.intervals.append(interval)
        self.ran_s = at_s

    @property
    def factor(self) -> float:
        return sum(self.intervals, start=_Interval()).contention


class LoadEstimator:
    """See the module.

    Args:
        profiled: the processor's speed at the profile's time; the fastest speed seen where that is not known.
        cpus: how many this program may use.
        threads: of one inference.

    """

    def __init__(self, profiled: Speed = Speed(), *, cpus: int = 1, threads: int = 1) -> None:
        self.factor = 1.0
        self.cpu_load = 0.0
        self._profiled = profiled
        self._cpus = cpus
        self._threads = threads
        self._contention = _Contention(cpus)
        self._others = 0.0
        self._spins: deque[Spin] = deque(maxlen=_SPINS)
        self._fastest = Speed()

    def read(self, readings: CpuReadings) -> float:
        """Take in a look at the board; returns the load factor, 1 for an idle board at its profiled speed."""
        if readings.cpu_load is not None:
            self.cpu_load = readings.cpu_load
        if readings.others is not None:
            self._others = readings.others
        if readings.threads is not None:
            self._contention.read(readings.threads, readings.at_s)
        if readings.spin is not None:
            self._spins.append(readings.spin)
        least, most = _FACTORS
        measured = min(most, max(least, self._contended(readings) * self._slowness(readings.clock_mhz)))
        if 1.0 / _LEAST < measured < _LEAST:
            measured = 1.0
        if measured == 1.0 or _apart(measured, self.factor) > _CHANGE:
            self.factor = measured
        return self.factor

    def _contended(self, readings: CpuReadings) -> float:
        if readings.threads is None:
            ratios = [spin.wall_s / spin.cpu_s for spin in self._spins if spin.cpu_s > 0.0]
            return max(float(np.median(ratios)) if ratios else 1.0, self._crowding)
        if readings.at_s - self._contention.ran_s <= _STALE_S:
            return self._contention.factor
        return self._crowding

    @property
    def _crowding(self) -> float:
        """From what others use: with no CPU left over we still get a fair share beside one competitor."""
        return 2.0 - min(1.0, max(0.0, self._cpus - self._others) / self._threads)

    def _slowness(self, clock_mhz: float | None) -> float:
        if clock_mhz is not None:
            known = max(clock_mhz, self._fastest.clock_mhz or 0.0)
            self._fastest = Speed(self._fastest.spin_s, known)
            return (self._profiled.clock_mhz or known) / clock_mhz
        if not self._spins:
            return 1.0
        now_s = min(spin.cpu_s for spin in self._spins)
        known_s = min(now_s, self._fastest.spin_s or math.inf)
        self._fastest = Speed(known_s, self._fastest.clock_mhz)
        return now_s / (self._profiled.spin_s or known_s)


def _interval(then: ThreadTimes, now: ThreadTimes) -> _Interval:
    run_s = now.run_s - then.run_s
    return _Interval(run_s, max(run_s, _SLICE_S * (now.slices - then.slices)), now.wait_s - then.wait_s)


def _apart(one: float, other: float) -> float:
    """How many times greater the greater of the two is."""
    return max(one / other, other / one)

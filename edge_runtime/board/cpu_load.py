"""Estimates the load factor: how much longer work takes now than when it was profiled. Pure.

Readings go in, a factor comes out. No reading depends on the content of the work. How long a head takes may depend
on its frame (denormal numbers take a processor several times as long), and the server sees the decisions that
follow from the load. So this module times no work on frames and no waiting of our threads (longer work uses up its
share of the CPU and then waits longer). The factor is the product of

    contention   threads that want a CPU, ours and those of other programs (`rivals`), over the CPUs there are: what
                 is left for each in the long run.
    slowness     the clock's limit when profiled over the limit now or, without one, the CPU time of a fixed piece
                 of work (`Spin`) over its profiled time. With one too where the spin was made at the limit and took
                 longer than the limit explains: the firmware holds the clock back without telling the kernel.
    quota        the CPUs that this program could use when profiled over those that it may use now, as far as an
                 inference has threads for them.

A load below `_LEAST` counts as none, and a change below `_CHANGE` is ignored: on a board without other load the
factor is always 1, whatever the frames are. One dependence on the content remains: if our work takes longer, other
programs finish their work later.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

#: Threads of other programs are counted at single moments; a reading is the mean of this many counts.
_MOMENTS = 5
#: A load below this counts as none; a new factor that differs by less from the current one does not replace it.
_LEAST = 1.2
_CHANGE = 1.1
#: The fastest of this many spins counts: one may have had a cold cache, or shared its core.
_SPINS = 4
#: A spin overrules the clock's limit if it took this many times longer than the limit explains.
_UNTOLD = 1.2
_FACTORS = (0.5, 50.0)


@dataclass(frozen=True)
class Spin:
    """Times of a fixed piece of work of about a millisecond: wall seconds and CPU seconds.

    ``settled``: the clock was at its limit, as far as the governor had to do with it.
    """

    wall_s: float
    cpu_s: float
    settled: bool = False


@dataclass(frozen=True)
class Speed:
    """The processor's speed when the board was profiled; None if it is unknown.

    ``cpus``: how many this program could use, see `cpu_quota`.
    """

    spin_s: float | None = None
    clock_mhz: float | None = None
    cpus: float | None = None


@dataclass(frozen=True)
class CpuReadings:
    """One set of readings for the load; None if the board does not report a value, or was not asked this time.

    Args:
        rivals: threads of other programs that run or wait for a CPU at this moment.
        cpu_load: share of all CPUs in use since the look before, 0 to 1.
        clock_mhz: what the processor may reach now.
        spin: the newest one, if one was made since the look before.
        usable_cpus: how many this program may use in the long run.

    """

    rivals: float | None = None
    cpu_load: float | None = None
    clock_mhz: float | None = None
    spin: Spin | None = None
    usable_cpus: float | None = None


class LoadEstimator:
    """Follows the load factor; see the module.

    Args:
        profiled: the processor's speed at the profile's time; the fastest speed seen where that is not known.
        cpus: how many there are.
        allowed: how many of them the affinity of this program names; all where it is not given.
        threads: of one inference.

    """

    def __init__(
        self, profiled: Speed = Speed(), *, cpus: int = 1, allowed: int | None = None, threads: int = 1
    ) -> None:
        self.factor = 1.0
        self.cpu_load = 0.0
        self._profiled = profiled
        self._cpus = cpus
        self._allowed = allowed or cpus
        self._threads = threads
        self._rivals: deque[float] = deque(maxlen=_MOMENTS)
        self._spins: deque[Spin] = deque(maxlen=_SPINS)
        self._settled: Spin | None = None
        self._fastest = Speed()

    def read(self, readings: CpuReadings) -> float:
        """Take new readings; returns the load factor, 1 for an idle board at its profiled speed."""
        if readings.cpu_load is not None:
            self.cpu_load = readings.cpu_load
        if readings.rivals is not None:
            self._rivals.append(readings.rivals)
        if readings.spin is not None:
            self._spins.append(readings.spin)
            self._settled = readings.spin if readings.spin.settled else self._settled
        least, most = _FACTORS
        slowness = self._slowness(readings.clock_mhz) * self._less_quota(readings.usable_cpus)
        measured = min(most, max(least, self._contention * slowness))
        if 1.0 / _LEAST < measured < _LEAST:
            measured = 1.0
        if measured == 1.0 or _apart(measured, self.factor) > _CHANGE:
            self.factor = measured
        return self.factor

    @property
    def _contention(self) -> float:
        rivals = sum(self._rivals) / len(self._rivals) if self._rivals else 0.0
        return max(1.0, rivals / self._cpus + self._threads / self._allowed)

    def _less_quota(self, usable_cpus: float | None) -> float:
        if usable_cpus is None:
            return 1.0
        known = max(usable_cpus, self._fastest.cpus or 0.0)
        self._fastest = replace(self._fastest, cpus=known)
        return min(self._threads, self._profiled.cpus or known) / min(self._threads, usable_cpus)

    def _slowness(self, clock_mhz: float | None) -> float:
        if clock_mhz is None:
            return self._by_spin(min((spin.cpu_s for spin in self._spins), default=None))
        known = max(clock_mhz, self._fastest.clock_mhz or 0.0)
        self._fastest = replace(self._fastest, clock_mhz=known)
        told = (self._profiled.clock_mhz or known) / clock_mhz
        measured = self._by_spin(self._settled.cpu_s if self._settled else None)
        return measured if measured > _UNTOLD * told else told

    def _by_spin(self, spin_s: float | None) -> float:
        if spin_s is None:
            return 1.0
        known_s = min(spin_s, self._fastest.spin_s or math.inf)
        self._fastest = replace(self._fastest, spin_s=known_s)
        return spin_s / (self._profiled.spin_s or known_s)


def _apart(one: float, other: float) -> float:
    """How many times greater the greater of the two is."""
    return max(one / other, other / one)

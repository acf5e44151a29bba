"""How much longer work takes on this board now than when it was profiled on an idle one."""

from __future__ import annotations

import math
from collections.abc import Callable

#: Heads shorter than this are too noisy to tell anything of the load.
_MIN_HEAD_S = 0.001
#: A measurement older than this says nothing of the load now.
_STALE_S = 2.0
#: The CPUs are looked at so often: over shorter times their load is noise, and looking costs time on a board.
_CPU_EVERY_S = 0.5
#: A head's time that differs so much from those before, in its logarithm, is news and not noise.
_STEP = 0.25


class LoadEstimator:
    """The ratio of a head's time to its profiled time; between frames, what the CPUs have left (psutil).

    ``cpu``: share of all CPUs in use since the last call, 0 to 1. ``factor``: the last estimate.
    """

    def __init__(self, cpu: Callable[[], float], *, cpus: int, threads: int) -> None:
        self.factor = 1.0
        self.cpu_load = 0.0
        self._cpu = cpu
        self._cpus = cpus
        self._threads = threads
        self._observed_s = self._looked_s = float("-inf")

    def observed(self, took_s: float, profiled_s: float, *, now_s: float, beside: bool = False) -> None:
        """A head took so long where the profile says so; ``beside`` a local run, whose doing that may be."""
        if profiled_s < _MIN_HEAD_S:
            return
        ratio = max(0.2, took_s / profiled_s)
        fresh = now_s - self._observed_s < _STALE_S
        if beside and fresh:
            return
        # A hog that came or went is a step, not a drift: half-way between the two nobody ever is.
        steady = fresh and abs(math.log(ratio / self.factor)) < _STEP
        self.factor = 0.5 * self.factor + 0.5 * ratio if steady else ratio
        self._observed_s = now_s

    def estimate(self, now_s: float) -> float:
        """The load factor now, 1 for an idle board."""
        if now_s - self._looked_s >= _CPU_EVERY_S:
            self._looked_s = now_s
            self.cpu_load = self._cpu()
        if now_s - self._observed_s > _STALE_S:
            # Nothing of ours ran lately, so what the CPUs do is what others do. With no CPU left over we
            # still get a fair share beside one competitor; how many there are, the load does not say.
            left = min(1.0, (1.0 - self.cpu_load) * self._cpus / self._threads)
            self.factor = 2.0 - left
        return self.factor

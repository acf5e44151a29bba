"""Estimates for the admission of requests: times of tails, and the error of forecast waits. Pure.

Times and measurements are arguments. A request is refused at once if the bound on its wait plus the bound on its
tail exceed the time until its answer is due. If a worker is free for it, it is admitted in any case: that delays no
other request, and measures the tail again.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

import msgspec

#: Weight of a new measurement in the running mean, and in the mean deviation.
_GAIN, _DEVIATION_GAIN = 1 / 8, 1 / 4
#: A run counts as at most this many times the mean: one that was delayed says little about the next.
_OUTLIER = 4.0
#: The bound of a tail's time is its mean plus this many mean deviations.
_DEVIATIONS = 3.0
#: The same for the ratio of a wait to its forecast, which is averaged over a longer time.
_WAIT_GAIN = 1 / 32
_WAIT_DEVIATIONS = 2.0
#: Upper limit of the ratio: a key that goes last because of its own use must not raise it for the others.
_WORST_RATIO = 1.5
#: Forecasts below this many seconds do not count for the ratio.
_SHORT_WAIT_S = 0.002


class RunningMean:
    """Mean and mean deviation of recent measurements."""

    def __init__(self, value: float, *, gain: float = _GAIN, deviation_gain: float = _DEVIATION_GAIN) -> None:
        self.mean = value
        self.deviation = 0.5 * value
        self._gain = gain
        self._deviation_gain = deviation_gain

    def add(self, value: float) -> None:
        """Add a measurement."""
        error = value - self.mean
        self.mean += self._gain * error
        self.deviation += self._deviation_gain * (abs(error) - self.deviation)


class TailTimes:
    """Measured seconds that each tail keeps a worker, decoding included.

    A run that had to load the tail first counts only if the previous run had to as well: a first run is not typical
    of the next ones.
    """

    def __init__(self) -> None:
        self._times: dict[Hashable, RunningMean] = {}
        self._loaded_last: dict[Hashable, bool] = {}

    def observed(self, tail: Hashable, busy_s: float, *, loaded: bool) -> None:
        """Note a worker's busy seconds with a tail; ``loaded``: the tail had to be loaded first."""
        again = self._loaded_last.get(tail, False)
        self._loaded_last[tail] = loaded
        if loaded and not again:
            return
        if (times := self._times.get(tail)) is None:
            self._times[tail] = RunningMean(busy_s)
        else:
            times.add(min(busy_s, _OUTLIER * times.mean))

    def expected_s(self, tail: Hashable) -> float:
        """The mean; 0 for a tail that was never measured."""
        times = self._times.get(tail)
        return 0.0 if times is None else times.mean

    def bound_s(self, tail: Hashable) -> float:
        """Seconds that a run seldom exceeds; 0 for a tail that was never measured."""
        times = self._times.get(tail)
        return 0.0 if times is None else times.mean + _DEVIATIONS * times.deviation


class WaitRatio:
    """The ratio of waits to their forecasts: later requests may go first, and workers may be slowed down."""

    def __init__(self) -> None:
        self._ratio = RunningMean(1.0, gain=_WAIT_GAIN, deviation_gain=_WAIT_GAIN)
        self._ratio.deviation = 0.0

    def observed(self, waited_s: float, forecast_s: float) -> None:
        """Note a job's wait (or the time until it was given up) and its forecast without the ratio, in seconds."""
        if forecast_s >= _SHORT_WAIT_S:
            self._ratio.add(min(2.0 * _WORST_RATIO, waited_s / forecast_s))

    @property
    def bound(self) -> float:
        """Factor for a forecast, 1 to 1.5."""
        return min(_WORST_RATIO, max(1.0, self._ratio.mean + _WAIT_DEVIATIONS * self._ratio.deviation))


class Forecast(msgspec.Struct, frozen=True):
    """The forecast for a request that comes now, in seconds from now.

    ``wait_s``: expected wait for a worker; 0 if one is free for it. ``wait_bound_s`` and ``tail_s`` are bounds.
    """

    wait_s: float
    wait_bound_s: float
    tail_s: float

    @property
    def idle(self) -> bool:
        """Whether a worker is free for it."""
        return self.wait_s == 0.0

    def is_late(self, due_in_s: float) -> bool:
        """Whether to refuse the request: its time is over, or no worker is free and its answer may be late."""
        return due_in_s <= 0.0 or not (self.idle or self.wait_bound_s + self.tail_s <= due_in_s)

    def retry_s(self, due_in_s: float) -> float:
        """Seconds after which such a request may return: when half of the tolerable queue is left.

        A shorter time would make a device come back for one request at a time; a longer one would leave workers
        idle.
        """
        bearable_s = max(0.0, due_in_s - self.tail_s)
        return max(_RETRY_AT_LEAST_S, self.wait_bound_s - 0.5 * min(bearable_s, self.wait_bound_s))


#: Minimum seconds that a refused device is told to wait.
_RETRY_AT_LEAST_S = 0.001
#: Refused devices are told to come back at a rate that needs this share of the workers' time ...
_PACE = 0.1
#: ... but after at most this many seconds.
_LONGEST_LINE_S = 30.0
#: If the queue stays long for this many seconds, devices are asked to leave, at an increasing rate.
_STANDS_S = 0.5
#: A wait is too long if it takes this share of the time until the answer is due, and at least this many seconds.
_LONG_SHARE = 0.1
_LONG_S = 0.01
#: Seconds that a device that is asked to leave should stay away.
YIELD_S = 2.0


class ReturnLine:
    """Assigns each refused device its own time to come back, one after another.

    With the same time for all they would come back together, be refused again, and take the gateway's time. A key
    has one place, however often it is refused before its time.
    """

    def __init__(self) -> None:
        self._end_s = -math.inf
        self._places: dict[str, float] = {}

    def retry_s(self, key: str, at_least_s: float, *, cost_s: float, now_s: float) -> float:
        """Seconds after which a key should come back.

        Args:
            key: The key that is refused.
            at_least_s: Minimum; before that it would be refused again in any case.
            cost_s: Time of its request, as a part of the time of all workers together.
            now_s: The time.

        """
        at_s = self._places.get(key, -math.inf)
        if at_s <= now_s:
            self._end_s = min(max(self._end_s, now_s) + cost_s / _PACE, now_s + _LONGEST_LINE_S)
            at_s = self._places[key] = self._end_s
        return max(at_least_s, at_s - now_s)


class StandingQueue:
    """Decides which devices to ask to leave because the queue stays long (CoDel's law).

    A short-lived queue does no harm. A standing queue delays every answer without answering more of them, so
    devices are asked to leave, one after another at an increasing rate, until it is gone.
    """

    def __init__(self) -> None:
        self._since_s = math.inf
        self._next_s = 0.0
        self._asked = 0
        self._mean = RunningMean(0.0, gain=_WAIT_GAIN)

    def waited(self, wait_s: float, due_in_s: float, *, now_s: float) -> None:
        """Note that a job got its worker after ``wait_s``; its answer was due ``due_in_s`` after it came."""
        self._mean.add(wait_s)
        if wait_s < max(_LONG_S, _LONG_SHARE * due_in_s):
            if self._since_s < math.inf:
                self._asked //= 2  # the queue may be back in a moment
            self._since_s = math.inf
        elif self._since_s == math.inf:
            self._since_s = now_s

    @property
    def mean_s(self) -> float:
        """Mean wait of recent jobs in seconds."""
        return self._mean.mean

    def is_long(self, *, now_s: float) -> bool:
        """Whether the queue has been long for some time: no more devices should send now."""
        return now_s >= self._since_s + _STANDS_S

    def asks_to_leave(self, *, now_s: float) -> bool:
        """Whether the present answer asks its device to leave for `YIELD_S`."""
        if not self.is_long(now_s=now_s) or now_s < self._next_s:
            return False
        self._asked += 1
        self._next_s = now_s + _STANDS_S / math.sqrt(self._asked)
        return True

"""What the admission of a request is decided from: how long tails take, and how wrong the forecast of a wait is.

Pure: times and measurements go in. A request is refused at once where the bound on its wait and the bound on its
tail add up to more than the time until its answer is due. Where a worker is free for it, it is let in whatever the
figures say: that costs nobody anything, and measures the tail again.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

import msgspec

#: Weight of a new measurement in the running mean, and in the mean deviation.
_GAIN, _DEVIATION_GAIN = 1 / 8, 1 / 4
#: A run counts as at most this many times the mean: one that was held up says little about the next.
_OUTLIER = 4.0
#: A tail is taken to need no longer than its mean and this many mean deviations.
_DEVIATIONS = 3.0
#: The same for the ratio of a wait to its forecast, which is followed more slowly.
_WAIT_GAIN = 1 / 32
_WAIT_DEVIATIONS = 2.0
#: No more than this is believed of the ratio: a key that goes last by its own use must not raise it for the others.
_WORST_RATIO = 1.5
#: A forecast of less than this says nothing about the ratio.
_SHORT_WAIT_S = 0.002


class RunningMean:
    """Mean and mean deviation of recent measurements."""

    def __init__(self, value: float, *, gain: float = _GAIN, deviation_gain: float = _DEVIATION_GAIN) -> None:
        self.mean = value
        self.deviation = 0.5 * value
        self._gain = gain
        self._deviation_gain = deviation_gain

    def add(self, value: float) -> None:
        """One more measurement."""
        error = value - self.mean
        self.mean += self._gain * error
        self.deviation += self._deviation_gain * (abs(error) - self.deviation)


class TailTimes:
    """How long each tail keeps a worker, decoding included, as measured. Seconds.

    A run that had to load the tail first counts only where the one before had to as well: a first run says nothing
    about the next one.
    """

    def __init__(self) -> None:
        self._times: dict[Hashable, RunningMean] = {}
        self._loaded_last: dict[Hashable, bool] = {}

    def observed(self, tail: Hashable, busy_s: float, *, loaded: bool) -> None:
        """Note a worker's busy seconds with a tail; ``loaded``: it had to load it."""
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
        """The time that a run seldom exceeds; 0 for a tail that was never measured."""
        times = self._times.get(tail)
        return 0.0 if times is None else times.mean + _DEVIATIONS * times.deviation


class WaitRatio:
    """By how much waits exceed their forecasts: who came later may go first, and workers may be slowed down."""

    def __init__(self) -> None:
        self._ratio = RunningMean(1.0, gain=_WAIT_GAIN, deviation_gain=_WAIT_GAIN)
        self._ratio.deviation = 0.0

    def observed(self, waited_s: float, forecast_s: float) -> None:
        """A job waited for ``waited_s``, or was given up then; ``forecast_s``: as expected, without the ratio."""
        if forecast_s >= _SHORT_WAIT_S:
            self._ratio.add(min(2.0 * _WORST_RATIO, waited_s / forecast_s))

    @property
    def bound(self) -> float:
        """What to multiply a forecast with, 1 to 1.5."""
        return min(_WORST_RATIO, max(1.0, self._ratio.mean + _WAIT_DEVIATIONS * self._ratio.deviation))


class Forecast(msgspec.Struct, frozen=True):
    """When a request that comes now would be answered. Seconds from now.

    ``wait_s``: expected wait for a worker; 0 where one is free for it. ``wait_bound_s`` and ``tail_s`` are bounds.
    """

    wait_s: float
    wait_bound_s: float
    tail_s: float

    @property
    def idle(self) -> bool:
        """Whether a worker is free for it."""
        return self.wait_s == 0.0

    def is_late(self, due_in_s: float) -> bool:
        """Whether it is to be refused: nobody can tell for sure that it would be in time, and others wait."""
        return due_in_s <= 0.0 or not (self.idle or self.wait_bound_s + self.tail_s <= due_in_s)

    def retry_s(self, due_in_s: float) -> float:
        """After how long such a request is welcome: when half of the queue is left that it finds, or could bear.

        Less would make a device come back for one request at a time, and more would leave workers idle.
        """
        bearable_s = max(0.0, due_in_s - self.tail_s)
        return max(_RETRY_AT_LEAST_S, self.wait_bound_s - 0.5 * min(bearable_s, self.wait_bound_s))


#: A refused device is told to wait for this long at least.
_RETRY_AT_LEAST_S = 0.001
#: Those who were refused are told to come back at a pace that takes this share of what the workers can do ...
_PACE = 0.1
#: ... but no later than this.
_LONGEST_LINE_S = 30.0
#: A queue that stands for this long is too long: then devices are asked to leave, ever faster one after another.
_STANDS_S = 0.5
#: A wait is too long where it takes this share of the time until the answer is due, and at least this many seconds.
_LONG_SHARE = 0.1
_LONG_S = 0.01
#: How long a device that is asked to leave is to stay away.
YIELD_S = 2.0


class ReturnLine:
    """When each refused device is to come back: one after another, in a line that they need not stand in.

    Told the same time, they would come back together, be refused again, and take the gateway's time. A key has one
    place, however often it is refused before its time has come.
    """

    def __init__(self) -> None:
        self._end_s = -math.inf
        self._places: dict[str, float] = {}

    def retry_s(self, key: str, at_least_s: float, *, cost_s: float, now_s: float) -> float:
        """After how long a key is to come back.

        Args:
            key: The key that is refused.
            at_least_s: Before that it would be refused again, whoever else comes.
            cost_s: What its request takes of the time of all workers together.
            now_s: The time.

        """
        at_s = self._places.get(key, -math.inf)
        if at_s <= now_s:
            self._end_s = min(max(self._end_s, now_s) + cost_s / _PACE, now_s + _LONGEST_LINE_S)
            at_s = self._places[key] = self._end_s
        return max(at_least_s, at_s - now_s)


class StandingQueue:
    """Which answers ask their device to send nothing for a while, because the queue never gets short (CoDel's law).

    A queue that comes and goes harms nobody. One that stands makes every answer late by as much and answers no more
    of them, so devices are asked to leave, one after another and ever faster, until it is gone.
    """

    def __init__(self) -> None:
        self._since_s = math.inf
        self._next_s = 0.0
        self._asked = 0
        self._mean = RunningMean(0.0, gain=_WAIT_GAIN)

    def waited(self, wait_s: float, due_in_s: float, *, now_s: float) -> None:
        """A job got its worker after ``wait_s``; its answer was due ``due_in_s`` after it came."""
        self._mean.add(wait_s)
        if wait_s < max(_LONG_S, _LONG_SHARE * due_in_s):
            if self._since_s < math.inf:
                self._asked //= 2  # it may be back in a moment
            self._since_s = math.inf
        elif self._since_s == math.inf:
            self._since_s = now_s

    @property
    def mean_s(self) -> float:
        """How long jobs waited of late, on average."""
        return self._mean.mean

    def is_long(self, *, now_s: float) -> bool:
        """Whether the queue stands: nobody else is to come now."""
        return now_s >= self._since_s + _STANDS_S

    def asks_to_leave(self, *, now_s: float) -> bool:
        """Whether the answer that goes out now asks its device to leave for `YIELD_S`."""
        if not self.is_long(now_s=now_s) or now_s < self._next_s:
            return False
        self._asked += 1
        self._next_s = now_s + _STANDS_S / math.sqrt(self._asked)
        return True

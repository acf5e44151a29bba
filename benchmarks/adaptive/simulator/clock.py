"""Virtual time, for the real device program to run in."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable


class Clock:
    """Virtual time and its scheduled events. Only `run_until` makes time pass."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def now(self) -> float:
        """Return the time; passed on as a function."""
        return self.now_s

    def at(self, when_s: float, action: Callable[[], None]) -> None:
        """Schedule an action; one at an infinite time is dropped."""
        if when_s < math.inf:
            heapq.heappush(self._events, (max(when_s, self.now_s), next(self._order), action))

    def run_until(self, until_s: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Run the scheduled actions until this time, or until ``stop`` is true after one of them."""
        if stop():
            return
        while self._events and self._events[0][0] <= until_s:
            when_s, _, action = heapq.heappop(self._events)
            self.now_s = max(self.now_s, when_s)
            action()
            if stop():
                return
        if until_s < math.inf:
            self.now_s = max(self.now_s, until_s)

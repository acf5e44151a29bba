"""Chooses among several servers: the one with the earlier predicted answer. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edge_runtime.planner.planner import Hysteresis


class ServerChoice:
    """Remembers the server in use, and leaves it for a clear gain or if it cannot be used.

    Args:
        hysteresis: The minimum gain, and the minimum time between two changes while both can be used.

    """

    def __init__(self, hysteresis: Hysteresis) -> None:
        self.server = 0
        self._hysteresis = hysteresis
        self._moved_s = -math.inf

    def choose(self, costs_s: Sequence[float], *, up: Sequence[bool], now_s: float) -> int:
        """Choose the server to use from now on.

        Args:
            costs_s: The predicted seconds of a frame at each server; infinite for one that cannot be used.
            up: Whether the link to each is up. If no server can be used, a connected one is preferred.
            now_s: The time.

        Returns:
            The server's number.

        """
        best = min(range(len(costs_s)), key=lambda one: (costs_s[one], not up[one], one != self.server))
        if best != self.server and not self._stays(costs_s[self.server], costs_s[best], now_s):
            self.server, self._moved_s = best, now_s
        return self.server

    def is_clear_gain(self, present_s: float, other_s: float) -> bool:
        """Whether ``other_s`` is less by enough to be worth a change."""
        if math.isinf(present_s):
            return not math.isinf(other_s)
        return present_s - other_s >= max(self._hysteresis.min_gain * present_s, self._hysteresis.min_gain_s)

    def _stays(self, present_s: float, best_s: float, now_s: float) -> bool:
        if math.isinf(present_s):
            return False
        return not self.is_clear_gain(present_s, best_s) or now_s - self._moved_s < self._hysteresis.dwell_s

"""Limits the number of frames under way at the same time. Pure."""

from __future__ import annotations

import math

from edge_runtime.planner.prediction import Prediction

#: Minimum and maximum of the frames under way at the server; see also `Admitted`.
IN_FLIGHT = (2, 6)
#: Seconds between two attempts to raise the limit by one: a server that was busy may have room again. Each attempt
#: may #: cost a release that is refused.
_ROOM_EVERY_S = 60.0


def limit_for(prediction: Prediction) -> int:
    """Number of frames under way so that the slowest stage never waits: latency over bottleneck, plus one."""
    least, most = IN_FLIGHT
    if prediction.bottleneck_s <= 0 or math.isinf(prediction.total_s):
        return least
    return max(least, min(most, math.ceil(prediction.total_s / prediction.bottleneck_s - 1e-9) + 1))


class Admitted:
    """Learns the server's limit of frames under way from its refusals as busy. Pure.

    Servers do not announce this limit, and the release of a refused frame is wasted. A frame refused with ``ahead``
    others before it shows that there is room for that many (at least for one).
    """

    def __init__(self) -> None:
        self._frames = IN_FLIGHT[1]
        self._busy_s = 0.0

    def busy(self, *, ahead: int, now_s: float) -> None:
        """Note that a frame was refused with ``ahead`` others under way before it."""
        self._frames = max(1, min(self.frames(now_s), ahead))
        self._busy_s = now_s

    def frames(self, now_s: float) -> int:
        """Maximum number of frames to have under way."""
        if self._frames == IN_FLIGHT[1]:
            return self._frames
        return min(IN_FLIGHT[1], self._frames + int((now_s - self._busy_s) / _ROOM_EVERY_S))

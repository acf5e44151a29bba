"""How many frames to have under way at the same time. Pure."""

from __future__ import annotations

import math

from edge_runtime.planner.prediction import Prediction

#: Frames under way at the server at the same time, least and most; see also `Admitted`.
IN_FLIGHT = (2, 6)
#: A server that was busy may have room again: every 60 s one more frame is tried. Each try may cost a release that
#: is refused.
_ROOM_EVERY_S = 60.0


def limit_for(prediction: Prediction) -> int:
    """Frames to have under way so that the slowest stage never waits: those that fit into one's time, and one."""
    least, most = IN_FLIGHT
    if prediction.bottleneck_s <= 0 or math.isinf(prediction.total_s):
        return least
    return max(least, min(most, math.ceil(prediction.total_s / prediction.bottleneck_s - 1e-9) + 1))


class Admitted:
    """How many frames the server takes at a time, learned from its refusals as busy. Pure.

    Servers do not announce this limit, and a refused frame was released for nothing. A frame that is refused behind
    ``ahead`` others shows that there is room for that number, or for one.
    """

    def __init__(self) -> None:
        self._frames = IN_FLIGHT[1]
        self._busy_s = 0.0

    def busy(self, *, ahead: int, now_s: float) -> None:
        """A frame was refused with ``ahead`` others under way before it."""
        self._frames = max(1, min(self.frames(now_s), ahead))
        self._busy_s = now_s

    def frames(self, now_s: float) -> int:
        """How many to have under way at most."""
        if self._frames == IN_FLIGHT[1]:
            return self._frames
        return min(IN_FLIGHT[1], self._frames + int((now_s - self._busy_s) / _ROOM_EVERY_S))

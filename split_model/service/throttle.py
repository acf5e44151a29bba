"""Limits messages that every frame may cause, so that they do not fill the journal or wear out a card."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

#: The argument ``extra`` of a logging call for messages that each frame may cause.
PER_FRAME = {"per_frame": True}
_BURST = 10
_EVERY_S = 60.0


class Throttle(logging.Filter):
    """Passes at most ``burst`` of each message marked `PER_FRAME` in ``every_s`` seconds.

    The first one after that reports the number of suppressed ones. Unmarked messages always pass.
    """

    def __init__(
        self, *, burst: int = _BURST, every_s: float = _EVERY_S, now: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._burst = burst
        self._every_s = every_s
        self._now = now
        self._windows: dict[str, tuple[float, int]] = {}  # message -> begin of its window, number of messages since

    def filter(self, record: logging.LogRecord) -> bool:
        """Called under the handler's lock."""
        if not getattr(record, "per_frame", False):
            return True
        now_s = self._now()
        began_s, count = self._windows.get(record.msg, (now_s, 0))
        if now_s - began_s >= self._every_s:
            if (held := count - self._burst) > 0:
                record.msg = f"{record.msg} (before this, {held} more like it)"
            began_s, count = now_s, 0
            self._windows[record.msg.split(" (before this")[0]] = (began_s, 1)
            return True
        self._windows[record.msg] = (began_s, count + 1)
        return count < self._burst

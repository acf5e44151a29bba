"""Cuts that are not to be used for a while, because the server refused them or their head does not work. Pure."""

from __future__ import annotations

import logging
import math
from collections import Counter

from split_model.service.throttle import PER_FRAME

log = logging.getLogger(__name__)

#: Until a server has other bundles, or a damaged file is replaced; twice as long each time in a row, up to an hour.
_LONG_S = 30.0
_LONGEST_S = 3600.0
#: Where it will pass by itself: this long the first time, twice as long each time in a row.
_SHORT_S = 0.5
_PASSING = {"busy", "expired"}


class CutBackoff:
    """Which cuts to avoid, and until when. Asking again costs a release each time, so it is not done each frame."""

    def __init__(self) -> None:
        self._until_s: dict[int, float] = {}
        self._in_a_row: Counter[int] = Counter()

    def allows(self, split: int, *, now_s: float) -> bool:
        """Whether a cut may be used."""
        return self._until_s.get(split, -math.inf) <= now_s

    def avoid(self, split: int, why: str, *, now_s: float, seconds: float = _LONG_S) -> None:
        """Do not use a cut for some time, and say why."""
        log.warning("cut %d is not used for %.1f s: %s", split, seconds, why, extra=PER_FRAME)
        self._until_s[split] = now_s + seconds

    def refused(self, split: int, code: str, text: str, *, now_s: float) -> None:
        """The server refused a request at this cut."""
        if code == "revoked":  # not about the cut; the link says so, and closes
            return
        first_s, longest_s = (_SHORT_S, _LONG_S) if code in _PASSING else (_LONG_S, _LONGEST_S)
        seconds = min(longest_s, first_s * 2.0 ** min(self._in_a_row[split], 16))
        self._in_a_row[split] += 1
        self.avoid(split, f"refused by the server ({code}): {text}", now_s=now_s, seconds=seconds)

    def answered(self, split: int) -> None:
        """The server answered a request at this cut."""
        self._in_a_row[split] = 0

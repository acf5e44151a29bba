"""Cuts that are not to be used for a while, because the server refused them or their head does not work. Pure.

A server that is short of time says so, in a refusal or with an answer. All devices of a fleet hear that at about
the same time. If they all came back after the same pause, it would be crowded again; if each came back soon, they
would come and go without end. So pauses are spread at random and double each time, and what made them long is
forgotten slowly: the fleet settles where the server is just not crowded, with few moves.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from split_model.service.throttle import PER_FRAME

log = logging.getLogger(__name__)

#: Until a server has other bundles, or a damaged file is replaced; twice as long each time in a row, up to an hour.
_LONG_S = 30.0
_LONGEST_S = 3600.0
#: Where it will pass by itself: this long the first time, twice as long each time, up to a minute; and up to this
#: share longer, at random.
_SHORT_S = 0.5
_SHORT_MOST_S = 60.0
_MOST_DOUBLINGS = 7.0
#: A tail is clearly shorter than another one where it takes less than this share of its operations.
_SHORTER = 0.5
#: A server that was asked, and had no time, is asked again after this time at least, and the same share longer.
_ASK_AGAIN_S = 2.0
_SPREAD = 1.0
#: So long without a refusal halves the next pause.
_CALM_S = 60.0
_PASSING = {"busy", "expired"}


@dataclass(frozen=True)
class _Crowded:
    """``doubled``: how often the first pause was, when the last one ended at ``until_s``."""

    doubled: float = 0.0
    until_s: float = -math.inf

    def at(self, now_s: float) -> float:
        """How often the next one is to be doubled."""
        return max(0.0, self.doubled - max(0.0, now_s - self.until_s) / _CALM_S)


class CutBackoff:
    """Which cuts to avoid, and until when. Asking again costs a release each time, so it is not done each frame.

    Args:
        jitter: Random numbers from 0 to 1.
        tail_macs: Multiply-accumulates of the tail behind each cut: a server that has no time for one has none for
            those that take about as long, or longer.
        server: For the log, where there are several.

    """

    def __init__(
        self,
        *,
        jitter: Callable[[], float] = lambda: 0.0,
        tail_macs: Mapping[int, int] | None = None,
        server: str = "",
    ) -> None:
        self._jitter = jitter
        self._at = f" at {server}" if server else ""
        self._macs = dict(tail_macs or {})
        self._until_s: dict[int, float] = {}
        self._in_a_row: Counter[int] = Counter()
        self._crowded: dict[int, _Crowded] = {}
        self._asks: set[int] = set()

    def allows(self, split: int, *, now_s: float) -> bool:
        """Whether a cut may be used."""
        return self._until_s.get(split, -math.inf) <= now_s

    def asks_first(self, split: int, *, now_s: float) -> bool:
        """Whether the server was too busy for this cut of late, and has not said since that it is welcome.

        Then it is asked before anything is released.
        """
        return split in self._asks and self._crowded[split].at(now_s) > 0.0

    def avoid(self, split: int, why: str, *, now_s: float, seconds: float = _LONG_S) -> None:
        """Do not use a cut for some time, and say why."""
        log.warning("cut %d is not used%s for %.1f s: %s", split, self._at, seconds, why, extra=PER_FRAME)
        self._until_s[split] = now_s + seconds

    def refused(self, split: int, code: str, text: str, *, now_s: float, retry_s: float = 0.0) -> None:
        """The server refused a request at this cut; ``retry_s``: it said when to try again."""
        if code == "revoked":  # not about the cut; the link says so, and closes
            return
        why = f"refused by the server ({code}): {text}"
        if code in _PASSING:
            self.crowded(split, why, now_s=now_s, retry_s=retry_s, level=logging.WARNING)
            return
        seconds = min(_LONGEST_S, _LONG_S * 2.0 ** min(self._in_a_row[split], 16))
        self._in_a_row[split] += 1
        self.avoid(split, why, now_s=now_s, seconds=seconds)

    def crowded(
        self,
        split: int,
        why: str,
        *,
        now_s: float,
        retry_s: float = 0.0,
        is_queue: bool = False,
        level: int = logging.INFO,
    ) -> None:
        """The server has no time for this cut now, nor for those whose tails are not much shorter.

        Args:
            split: The cut.
            why: For the log.
            now_s: The time.
            retry_s: When to try again, as the server said.
            is_queue: Requests wait too long there, whatever their cut.
            level: Of the log line.

        """
        before = self._crowded.get(split, _Crowded())
        if now_s < before.until_s:  # known already: several requests were on their way
            return
        doubled = before.at(now_s)
        first_s = max(retry_s, _SHORT_S)
        seconds = max(first_s, min(_SHORT_MOST_S, first_s * 2.0**doubled)) * (1.0 + _SPREAD * self._jitter())
        doubled = min(doubled + 1.0, _MOST_DOUBLINGS)
        log.log(level, "cut %d is not used%s for %.1f s: %s", split, self._at, seconds, why, extra=PER_FRAME)
        for cut in (split, *self._macs) if is_queue else self._about_as_long(split):
            self._asks.add(cut)
            self._crowded[cut] = _Crowded(doubled, now_s + seconds)
            self._until_s[cut] = max(self._until_s.get(cut, -math.inf), now_s + seconds)

    def welcome(self) -> None:
        """The server was asked, and has time."""
        self._asks.clear()

    def turned_away(self, split: int, *, now_s: float, retry_s: float) -> None:
        """The server was asked, and has no time. That costs little, so it is asked again soon."""
        seconds = max(retry_s, _ASK_AGAIN_S) * (1.0 + _SPREAD * self._jitter())
        for cut in self._about_as_long(split):
            self._until_s[cut] = max(self._until_s.get(cut, -math.inf), now_s + seconds)

    def _about_as_long(self, split: int) -> set[int]:
        """The cut, and all others but those whose tails are clearly shorter."""
        own = self._macs.get(split, math.inf)
        return {split, *(cut for cut, macs in self._macs.items() if macs >= _SHORTER * own)}

    def answered(self, split: int) -> None:
        """The server answered a request at this cut."""
        self._in_a_row[split] = 0

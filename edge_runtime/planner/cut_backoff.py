"""Avoids cuts for a while that the server refused or whose head does not work. Pure.

A busy server reports that in a refusal or with an answer. All devices of a fleet learn it at about the same time.
If all came back after the same pause, the server would be busy again; if each came back soon, they would come and
go without end. So pauses have a random part and double each time, and return to their first length slowly: the
fleet settles just below the server's limit, with few moves.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from split_model.service.throttle import PER_FRAME

log = logging.getLogger(__name__)

#: Pause in seconds for a lasting fault (missing bundle, damaged file): the first, doubling each time up to an hour.
_LONG_S = 30.0
_LONGEST_S = 3600.0
#: Pause in seconds for a passing fault: the first and the longest; it doubles each time, and `_SPREAD` adds a
#: random #: part.
_SHORT_S = 0.5
_SHORT_MOST_S = 60.0
_MOST_DOUBLINGS = 7.0
#: A tail is clearly shorter than another one if it has less than this share of its operations.
_SHORTER = 0.5
#: Minimum seconds before a server that was asked and had no time is asked again. Pauses are up to `_SPREAD` times
#: #: longer, at random.
_ASK_AGAIN_S = 2.0
_SPREAD = 1.0
#: Seconds without a refusal that halve the next pause.
_CALM_S = 60.0
_PASSING = {"busy", "expired"}


@dataclass(frozen=True)
class _Crowded:
    """``doubled``: how often the pause was doubled by the one that ended at ``until_s``."""

    doubled: float = 0.0
    until_s: float = -math.inf

    def at(self, now_s: float) -> float:
        """How often the next pause is doubled."""
        return max(0.0, self.doubled - max(0.0, now_s - self.until_s) / _CALM_S)


class CutBackoff:
    """The cuts to avoid, and until when. Each new attempt costs a release, so it is not made at each frame.

    Args:
        jitter: Random numbers from 0 to 1.
        tail_macs: Multiply-accumulates of each cut's tail: a server without time for one tail has none for tails of
            about
                the same length or longer.
        server: Name for the log if there are several servers.

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
        """Whether the server must be asked before a release: it was too busy for this cut lately."""
        return split in self._asks and self._crowded[split].at(now_s) > 0.0

    def avoid(self, split: int, why: str, *, now_s: float, seconds: float = _LONG_S) -> None:
        """Avoid a cut for some time, and log the reason."""
        log.warning("cut %d is not used%s for %.1f s: %s", split, self._at, seconds, why, extra=PER_FRAME)
        self._until_s[split] = now_s + seconds

    def refused(self, split: int, code: str, text: str, *, now_s: float, retry_s: float = 0.0) -> None:
        """Note a refusal at a cut; ``retry_s``: the server's wait before a retry."""
        if code == "revoked":  # it concerns the connection, not the cut; the link reports it and closes
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
        """Note that the server has no time for this cut, nor for those with a tail that is not much shorter.

        Args:
            split: The cut.
            why: For the log.
            now_s: The time.
            retry_s: The server's wait before a retry, in seconds.
            is_queue: Requests wait too long there, at any cut.
            level: Level of the log line.

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
        """Note that the server was asked and has time."""
        self._asks.clear()

    def turned_away(self, split: int, *, now_s: float, retry_s: float) -> None:
        """Note that the server was asked and has no time. A question costs little, so it is asked again soon."""
        seconds = max(retry_s, _ASK_AGAIN_S) * (1.0 + _SPREAD * self._jitter())
        for cut in self._about_as_long(split):
            self._until_s[cut] = max(self._until_s.get(cut, -math.inf), now_s + seconds)

    def _about_as_long(self, split: int) -> set[int]:
        """The cut, and all others except those with clearly shorter tails."""
        own = self._macs.get(split, math.inf)
        return {split, *(cut for cut, macs in self._macs.items() if macs >= _SHORTER * own)}

    def answered(self, split: int) -> None:
        """Note an answer at a cut."""
        self._in_a_row[split] = 0

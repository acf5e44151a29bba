"""How long to wait before connecting again: whatever a server can repeat costs it more time each time. Pure."""

from __future__ import annotations

import math

from edge_runtime.link.trouble import Trouble

_FIRST_S = 0.5
#: A connection that was up for this long is a good one: what went wrong before it is forgotten.
SETTLED_S = 10.0
#: The longest pause before the server welcomed us: whoever lets us in should not have to wait long to see it.
_MOST_UNTIL_WELCOME_S = 5.0
#: Doubling stops here at the latest; a float has no room for it for ever.
_MOST_DOUBLINGS = 10


class Backoff:
    """Counts failures in a row: before the server welcomed us, and after.

    Both kinds are counted apart, as a server that is away for an hour and then welcomes us did no wrong.
    """

    def __init__(self) -> None:
        self._refused = 0
        self._thrown_out = 0
        self._welcomed_s = math.inf

    def welcomed(self, now_s: float) -> None:
        """The server let us in."""
        self._refused = 0
        self._welcomed_s = now_s

    def delay_s(self, trouble: Trouble, now_s: float) -> float:
        """Count a failure; the pause before the next connection, without jitter. 0 is at once."""
        pause = trouble.pause
        if self._welcomed_s + SETTLED_S <= now_s:
            self._thrown_out = 0
        if self._welcomed_s == math.inf:
            strikes, most_s = self._refused - pause.free, min(pause.most_s, _MOST_UNTIL_WELCOME_S)
            self._refused += 1
        else:
            strikes, most_s = self._thrown_out - pause.free, pause.most_s
            self._thrown_out += 1
        self._welcomed_s = math.inf
        if strikes < 0:
            return 0.0
        return min(_FIRST_S * 2.0 ** min(strikes, _MOST_DOUBLINGS), most_s)

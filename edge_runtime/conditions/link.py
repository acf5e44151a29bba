"""What really crossed the link, turned into an estimate of its uplink and round trip. Pure: no clock, no socket.

A cellular uplink keeps its rate for about a second, then has another one: the newest sample says most, older ones
little. Rates are averaged as logarithms, so that one sample of a dead link neither hides a link that came back
nor is hidden by what the link could do before.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

#: Faster than this nothing is believed: arrivals that close together only show the server's own buffers.
MAX_BYTES_S = 1.25e8
#: A link that lets less through than this is as good as dead, and a logarithm needs a floor.
MIN_BYTES_S = 100.0


@dataclass(frozen=True)
class LinkEstimate:
    """The link as it is believed to be. ``uplink_bytes_s`` is None while nothing was ever measured.

    ``rate_spread``: standard deviation of the logarithm of the rate, growing with the age of the last sample.
    """

    uplink_bytes_s: float | None
    rtt_s: float | None
    rate_spread: float
    age_s: float


class LinkEstimator:
    """Feed it what was observed; ask it for the link now.

    ``gain``: weight of a new sample that follows the last one at once; ``coherence_s``: after so long without a
    sample the last one keeps 1/e of the remaining weight.
    """

    def __init__(self, *, gain: float = 0.6, coherence_s: float = 0.6, volatility_per_s: float = 0.35) -> None:
        self._gain = gain
        self._coherence_s = coherence_s
        self._volatility_per_s = volatility_per_s
        self._log_rate: float | None = None
        self._at_s = -math.inf
        self._rtts: deque[float] = deque(maxlen=8)

    def transferred(self, payload_bytes: float, seconds: float, *, at_s: float) -> None:
        """So many bytes took so long to arrive. Zero bytes in some seconds is information too: the link hung."""
        if seconds <= 0.0 and payload_bytes <= 0.0:
            return
        rate = payload_bytes / seconds if seconds > 0.0 else MAX_BYTES_S
        log_rate = math.log(min(MAX_BYTES_S, max(MIN_BYTES_S, rate)))
        if self._log_rate is None:
            self._log_rate = log_rate
        else:
            left = (1.0 - self._gain) * math.exp(-max(0.0, at_s - self._at_s) / self._coherence_s)
            self._log_rate = left * self._log_rate + (1.0 - left) * log_rate
        self._at_s = at_s

    def round_trip(self, seconds: float) -> None:
        """A message and its answer took so long, transfer and service times already taken off."""
        self._rtts.append(max(0.0, seconds))

    def estimate(self, now_s: float) -> LinkEstimate:
        """The link at ``now_s``. The round trip is the lower median of the last eight."""
        rtt_s = sorted(self._rtts)[(len(self._rtts) - 1) // 2] if self._rtts else None
        if self._log_rate is None:
            return LinkEstimate(None, rtt_s, math.inf, math.inf)
        age_s = max(0.0, now_s - self._at_s)
        spread = self._volatility_per_s * math.sqrt(min(age_s, 60.0))
        return LinkEstimate(math.exp(self._log_rate), rtt_s, spread, age_s)

"""What really crossed the link, turned into an estimate of its uplink and round trip. Pure: no clock, no socket.

The uplink is a ratio of sums, bytes over the seconds they took, each sample fading with its age. Summing the
seconds, not averaging the rates, is what makes the estimate predict transfer *times* without bias.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

#: Faster than this nothing is believed: arrivals that close together only show the server's own buffers.
MAX_BYTES_S = 1.25e8
#: Samples older than this many fading times weigh nothing and are forgotten.
_FORGET = 8.0


@dataclass(frozen=True)
class LinkEstimate:
    """The link as it is believed to be. ``uplink_bytes_s`` is None while nothing was ever measured.

    ``rate_spread``: standard deviation of the logarithm of the rate, growing with the age of the last sample.
    """

    uplink_bytes_s: float | None
    rtt_s: float | None
    rate_spread: float
    age_s: float


@dataclass(frozen=True)
class _Sample:
    at_s: float
    bytes: float
    seconds: float


class LinkEstimator:
    """Feed it what was observed; ask it for the link now. ``fade_s``: how fast old samples stop counting."""

    def __init__(self, *, fade_s: float = 1.0, volatility_per_s: float = 0.35) -> None:
        self._fade_s = fade_s
        self._volatility_per_s = volatility_per_s
        self._samples: deque[_Sample] = deque()
        self._rtts: deque[tuple[float, float]] = deque()

    def transferred(self, payload_bytes: float, seconds: float, *, at_s: float) -> None:
        """So many bytes took so long to arrive. Zero bytes in some seconds is information too: the link hung."""
        if seconds <= 0.0 and payload_bytes <= 0.0:
            return
        seconds = max(seconds, payload_bytes / MAX_BYTES_S)
        self._samples.append(_Sample(at_s, payload_bytes, seconds))
        while self._samples and at_s - self._samples[0].at_s > _FORGET * self._fade_s and len(self._samples) > 1:
            self._samples.popleft()

    def round_trip(self, seconds: float, *, at_s: float) -> None:
        """A message and its answer took so long, transfer and service times already taken off."""
        self._rtts.append((at_s, max(0.0, seconds)))
        while len(self._rtts) > 8:
            self._rtts.popleft()

    def estimate(self, now_s: float) -> LinkEstimate:
        """The link at ``now_s``."""
        rtt_s = sorted(value for _, value in self._rtts)[(len(self._rtts) - 1) // 2] if self._rtts else None
        if not self._samples:
            return LinkEstimate(None, rtt_s, math.inf, math.inf)
        newest_s = self._samples[-1].at_s
        # Fade against the newest sample, not the clock: age alone must widen the spread, not move the mean.
        weights = [math.exp((sample.at_s - newest_s) / self._fade_s) for sample in self._samples]
        sent = sum(w * sample.bytes for w, sample in zip(weights, self._samples, strict=True))
        took = sum(w * sample.seconds for w, sample in zip(weights, self._samples, strict=True))
        age_s = max(0.0, now_s - newest_s)
        # A link that let nothing through still gets a positive rate, so that predictions stay finite.
        rate = max(sent, 1.0) / took
        return LinkEstimate(rate, rtt_s, self._volatility_per_s * math.sqrt(min(age_s, 60.0)), age_s)

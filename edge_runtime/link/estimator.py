"""Estimates uplink and round trip from the traffic on the link. Pure: no clock, no socket.

A cellular uplink varies about a mean: after half a second its rate is mostly the same, after some seconds it can be
any of its usual rates. So the logarithm of the rate is modelled as a mean-reverting random walk (Ornstein-
Uhlenbeck), by a scalar Kalman filter: the older the last sample, the closer the prediction is to the mean, the
wider its distribution, and the more the next sample counts. An outage is not a rate: it is recorded as silence, and
the estimate from before the outage is used again when the link is back. See docs/splitting.md.
"""

from __future__ import annotations

import math
from collections import deque

import msgspec
from msgspec.structs import replace

from split_model.protocol.chunks import chunk_bytes_for

#: Rates above this are not believed: arrivals so close together show only the server's own buffers.
MAX_BYTES_S = 1.25e8
#: The floor of rates, for the logarithm: a slower link is practically dead.
MIN_BYTES_S = 100.0
#: Headers of a chunk on the wire: two frames of ZMTP and CURVE, and our own.
CHUNK_OVERHEAD_BYTES = 80
#: A timing has an error of about half a packet: the fewer packets, the larger the relative error.
_GRAIN_BYTES = 600.0
#: A gap between samples counts at most this long in the mean: during an outage there is no rate to average.
_LONGEST_GAP_S = 2.0


def wire_bytes(part_bytes: float, total_bytes: int) -> float:
    """Bytes on the wire for a part of a payload of ``total_bytes``, headers included."""
    chunk_bytes = max(1, min(chunk_bytes_for(total_bytes), total_bytes))
    return part_bytes * (1.0 + CHUNK_OVERHEAD_BYTES / chunk_bytes)


class LinkEstimate(msgspec.Struct, frozen=True):
    """The estimated link. ``uplink_bytes_s`` is None until the first measurement.

    ``rate_spread``: standard deviation of the logarithm of the rate, growing with the age of the last sample.
    ``mean_bytes_s`` and ``mean_spread``: the values that both approach as the sample ages, with the time constant
    ``coherence_s``.
    ``silent_s``: seconds for which something has been overdue from the server; 0 while nothing is.
    """

    uplink_bytes_s: float | None
    rtt_s: float | None
    rate_spread: float
    age_s: float
    mean_bytes_s: float | None = None
    mean_spread: float = 0.0
    coherence_s: float = math.inf
    silent_s: float = 0.0

    def ahead(self, seconds: float) -> LinkEstimate:
        """Predict the estimate ``seconds`` later, if nothing is measured meanwhile."""
        if self.uplink_bytes_s is None or self.mean_bytes_s is None:
            return self
        left = math.exp(-max(0.0, seconds) / self.coherence_s)
        rate = self.uplink_bytes_s**left * self.mean_bytes_s ** (1.0 - left)
        variance = left**2 * self.rate_spread**2 + (1.0 - left**2) * self.mean_spread**2
        return replace(self, uplink_bytes_s=rate, rate_spread=math.sqrt(variance), age_s=self.age_s + seconds)


class LinkEstimator:
    """Learns from measurements of the link; `estimate` returns its present state.

    ``coherence_s``: the age at which a sample keeps 1/e of its weight against the mean. ``noise``: standard
    deviation of a sample's logarithm for a link of constant rate. ``memory_s``: time constant of mean and spread.
    ``prior_spread``: the spread about the mean before the first samples.
    """

    def __init__(
        self,
        *,
        coherence_s: float = 2.5,
        noise: float = 0.15,
        memory_s: float = 20.0,
        prior_spread: float = 0.6,
    ) -> None:
        self._coherence_s = coherence_s
        self._noise_variance = noise**2
        self._memory_s = memory_s
        self._log_rate: float | None = None
        self._variance = 0.0
        self._mean = 0.0
        self._mean_variance = prior_spread**2
        self._at_s = -math.inf
        self._rtts: deque[float] = deque(maxlen=8)

    def transferred(self, on_wire_bytes: float, seconds: float, *, at_s: float, grain: bool = True) -> None:
        """Learn from bytes, headers included, that took ``seconds`` to arrive.

        Without ``grain`` the sample has full weight even with few bytes: a request that was given up was slow.
        """
        if seconds <= 0.0 and on_wire_bytes <= 0.0:
            return
        rate = on_wire_bytes / seconds if seconds > 0.0 else MAX_BYTES_S
        sample = math.log(min(MAX_BYTES_S, max(MIN_BYTES_S, rate)))
        grain_noise = min(1.0, _GRAIN_BYTES / max(on_wire_bytes, 1.0)) if grain else 0.0
        noise_variance = self._noise_variance + grain_noise**2
        if self._log_rate is None:
            self._log_rate = self._mean = sample
            self._variance = noise_variance
        else:
            age_s = max(0.0, at_s - self._at_s)
            predicted, variance = self._predicted(self._log_rate, age_s)
            gain = variance / (variance + noise_variance)
            self._log_rate = predicted + gain * (sample - predicted)
            self._variance = (1.0 - gain) * variance
            # The mean over time, not over samples: a burst of samples counts no more than one.
            share = 1.0 - math.exp(-min(age_s, _LONGEST_GAP_S) / self._memory_s)
            self._mean += share * (sample - self._mean)
            self._mean_variance += share * ((sample - self._mean) ** 2 - self._mean_variance)
        self._at_s = max(self._at_s, at_s)

    def round_trip(self, seconds: float) -> None:
        """Learn from a round trip in seconds: a message and its answer, less transfer and service times."""
        self._rtts.append(max(0.0, seconds))

    def estimate(self, now_s: float) -> LinkEstimate:
        """Return the link at ``now_s``. The round trip is the lower median of the last eight."""
        rtt_s = sorted(self._rtts)[(len(self._rtts) - 1) // 2] if self._rtts else None
        if self._log_rate is None:
            return LinkEstimate(None, rtt_s, math.inf, math.inf)
        age_s = max(0.0, now_s - self._at_s)
        log_rate, variance = self._predicted(self._log_rate, age_s)
        return LinkEstimate(
            uplink_bytes_s=math.exp(log_rate),
            rtt_s=rtt_s,
            rate_spread=math.sqrt(variance),
            age_s=age_s,
            mean_bytes_s=math.exp(self._mean),
            mean_spread=math.sqrt(self._mean_variance),
            coherence_s=self._coherence_s,
        )

    def _predicted(self, log_rate: float, age_s: float) -> tuple[float, float]:
        """Mean and variance of the log rate, ``age_s`` after the last sample."""
        left = math.exp(-age_s / self._coherence_s)
        variance = left**2 * self._variance + (1.0 - left**2) * self._mean_variance
        return self._mean + left * (log_rate - self._mean), variance

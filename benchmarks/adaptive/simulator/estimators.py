"""Other estimators of the link for the same program: the present or future capacity, the newest or one sample."""

from __future__ import annotations

from msgspec.structs import replace

from benchmarks.adaptive.simulator.scene import WARM_UP_S
from benchmarks.wire.traces import Trace
from edge_runtime.link.estimator import LinkEstimate, LinkEstimator

#: Seconds for which a static profile is measured, just before frames count.
_MEASURED_S = 5.0


class TruthfulEstimator(LinkEstimator):
    """Knows the link's present capacity exactly, and not its future."""

    def __init__(self, link: Trace) -> None:
        super().__init__()
        self._link = link

    def estimate(self, now_s: float) -> LinkEstimate:
        """Return the true present capacity."""
        rate = max(100.0, self._link.mbit_s_at(now_s) * 125_000)
        return replace(
            super().estimate(now_s),
            uplink_bytes_s=rate,
            rate_spread=0.0,
            age_s=0.0,
            mean_bytes_s=None,
            silent_s=0.0,
        )


class ForesightEstimator(LinkEstimator):
    """Knows the mean capacity of the next ``ahead_s`` seconds: the exact rate of a transfer of that length."""

    def __init__(self, link: Trace, ahead_s: float) -> None:
        super().__init__()
        self._link = link
        self._ahead_s = ahead_s

    def estimate(self, now_s: float) -> LinkEstimate:
        """Return the true mean capacity of the next ``ahead_s`` seconds."""
        rate = max(100.0, self._link.bits_between(now_s, now_s + self._ahead_s) / 8 / self._ahead_s)
        return replace(
            super().estimate(now_s),
            uplink_bytes_s=rate,
            rate_spread=0.0,
            age_s=0.0,
            mean_bytes_s=None,
            silent_s=0.0,
        )


class LastSampleEstimator(LinkEstimator):
    """Estimates the newest sample, without uncertainty."""

    def __init__(self) -> None:
        super().__init__(noise=0.0, coherence_s=1e9)

    def estimate(self, now_s: float) -> LinkEstimate:
        """Return the newest sample."""
        return replace(super().estimate(now_s), rate_spread=0.0, age_s=0.0, mean_bytes_s=None)


class OnceEstimator(LinkEstimator):
    """Measures the link once, at the start, like Neurosurgeon's static profile."""

    def __init__(self, link: Trace) -> None:
        super().__init__()
        before_s = WARM_UP_S - _MEASURED_S
        self._rate = max(100.0, link.bits_between(before_s, WARM_UP_S) / 8 / _MEASURED_S)

    def estimate(self, now_s: float) -> LinkEstimate:
        """Return the sample of the start."""
        return replace(
            super().estimate(now_s),
            uplink_bytes_s=self._rate,
            rate_spread=0.0,
            age_s=0.0,
            mean_bytes_s=None,
            silent_s=0.0,
        )

"""Other beliefs of the link for the same program: its present or coming capacity, the newest sample, one sample."""

from __future__ import annotations

from msgspec.structs import replace

from benchmarks.adaptive.simulator.scene import WARM_UP_S
from benchmarks.wire.traces import Trace
from edge_runtime.link.estimator import LinkEstimate, LinkEstimator

#: Seconds for which a static profile is measured, just before frames count.
_MEASURED_S = 5.0


class TruthfulEstimator(LinkEstimator):
    """Knows the link's capacity at this very moment, and nothing of its future."""

    def __init__(self, link: Trace) -> None:
        super().__init__()
        self._link = link

    def estimate(self, now_s: float) -> LinkEstimate:
        """The truth."""
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
    """Knows the mean capacity of the next ``ahead_s`` seconds, so for a transfer of that length its very rate."""

    def __init__(self, link: Trace, ahead_s: float) -> None:
        super().__init__()
        self._link = link
        self._ahead_s = ahead_s

    def estimate(self, now_s: float) -> LinkEstimate:
        """The truth, and a little more than anybody can know."""
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
    """Believes the newest sample, and is sure of it."""

    def __init__(self) -> None:
        super().__init__(noise=0.0, coherence_s=1e9)

    def estimate(self, now_s: float) -> LinkEstimate:
        """What it was last."""
        return replace(super().estimate(now_s), rate_spread=0.0, age_s=0.0, mean_bytes_s=None)


class OnceEstimator(LinkEstimator):
    """Measured the link once, at the start, as Neurosurgeon's static profile."""

    def __init__(self, link: Trace) -> None:
        super().__init__()
        before_s = WARM_UP_S - _MEASURED_S
        self._rate = max(100.0, link.bits_between(before_s, WARM_UP_S) / 8 / _MEASURED_S)

    def estimate(self, now_s: float) -> LinkEstimate:
        """What it was at the start."""
        return replace(
            super().estimate(now_s),
            uplink_bytes_s=self._rate,
            rate_spread=0.0,
            age_s=0.0,
            mean_bytes_s=None,
            silent_s=0.0,
        )

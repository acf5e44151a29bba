"""Histograms of the server's answer times, by bundle and cut. Written by the gateway's thread only.

Other threads may read. Adding takes about a microsecond and no lock. Names from devices never become labels: only
hosted bundles and their cuts do, whose number the operator decides.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

import msgspec

#: Upper ends of the buckets, in seconds.
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: The measured times of an answer: from first chunk to sending, waiting for a worker, and the tail alone.
PARTS = ("total", "queue", "tail")


class Histogram(msgspec.Struct, kw_only=True):
    """Counts by bucket (the last one is open-ended), and the sum in seconds."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one value."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    @property
    def count(self) -> int:
        """The number of counted values."""
        return sum(self.counts)

    def quantile_s(self, share: float) -> float | None:
        """The upper end of the bucket of this quantile; None without values, infinite in the last bucket."""
        wanted, seen = share * self.count, 0
        if not self.count:
            return None
        for bound_s, count in zip((*BOUNDS_S, float("inf")), self.counts, strict=True):
            seen += count
            if seen >= wanted:
                return bound_s
        return float("inf")


class Tail(msgspec.Struct, kw_only=True):
    """The histograms of one bundle's cut."""

    parts: dict[str, Histogram] = msgspec.field(default_factory=lambda: {part: Histogram() for part in PARTS})
    received_bytes: int = 0
    sent_bytes: int = 0


class AnswerTimes:
    """The histograms of all tails, by (bundle's name, cut)."""

    def __init__(self) -> None:
        self._tails: dict[tuple[str, int], Tail] = {}

    def answered(
        self,
        bundle: str,
        cut: int,
        *,
        total_s: float,
        queue_s: float,
        tail_s: float,
        received_bytes: int,
        sent_bytes: int,
    ) -> None:
        """Count an answer; the bundle must be hosted, and the cut must be one of its own."""
        tail = self._tails.get((bundle, cut))
        if tail is None:
            tail = self._tails[bundle, cut] = Tail()
        parts = tail.parts
        parts["total"].add(total_s)
        parts["queue"].add(queue_s)
        parts["tail"].add(tail_s)
        tail.received_bytes += received_bytes
        tail.sent_bytes += sent_bytes

    def tails(self) -> Mapping[tuple[str, int], Tail]:
        """A copy of the table; its histograms go on changing."""
        return dict(self._tails)

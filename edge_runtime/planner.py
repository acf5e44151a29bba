"""Where to cut now. Pure: profiles and conditions in, a decision with its reasons out.

For every cut it predicts, with the link and the load as they are believed to be::

    time = head · load + release · load + bytes / uplink + round trip + queue + tail

and takes the shortest, but moves away from the split point in force only for a clear gain, and not more often
than the dwell time allows. A lost link sends it to ``local`` at once. With the objective ``throughput`` it takes
the split whose slowest part is fastest instead.

The uplink is not a number but a distribution (log-normal), looked at as of when the head will be done. So
``bytes / uplink`` is an expectation: a slow second costs more than a fast one gains, but no more than a local run,
which is started when the answer is overdue. What is silent is expected to stay so for as long again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edge_runtime.conditions.link import LinkEstimate, wire_bytes

Objective = Literal["latency", "throughput"]

#: Used for the round trip until one was measured.
_UNKNOWN_RTT_S = 0.1
#: No link is believed to be better known than this, standard deviation of the logarithm of its rate, nor worse.
_SPREAD = (0.1, 2.0)
#: A local run is started when an answer is overdue by about this share of its transfer time, and so many seconds.
_RESCUED_AFTER = 0.5
_RESCUED_AFTER_S = 0.05


@dataclass(frozen=True)
class SplitProfile:
    """What one split costs: head and release on this board when idle, payload, tail on the server.

    The split ``local`` has ``payload_bytes`` 0 and its whole run as ``head_s``.
    """

    split: int
    head_s: float
    release_s: float = 0.0
    payload_bytes: int = 0
    tail_s: float = 0.0


@dataclass(frozen=True)
class Conditions:
    """The world as the planner sees it. ``load``: how many times longer work takes here than in the profile."""

    link: LinkEstimate
    link_up: bool
    load: float = 1.0
    queue_s: float = 0.0


@dataclass(frozen=True)
class Prediction:
    """Predicted latency of a frame at one split, in parts that add up to ``total_s``.

    ``doubt``: the chance that a local run started together with the frame would be done before.
    """

    split: int
    total_s: float
    head_s: float
    transfer_s: float
    round_trip_s: float
    server_s: float
    doubt: float = 0.0

    @property
    def bottleneck_s(self) -> float:
        """Seconds a frame of the slowest stage: all that counts when frames are worked on at the same time."""
        return max(self.head_s, self.transfer_s, self.server_s)

    def cost_s(self, objective: Objective) -> float:
        """What is minimised: the time of one frame, or the time from one answer to the next."""
        return self.total_s if objective == "latency" else self.bottleneck_s


@dataclass(frozen=True)
class Decision:
    """The split point from now on, and why: what was seen and what it predicts for every split there was.

    ``moved`` says whether it differs from the one before.
    """

    split: int
    moved: bool
    why: str
    predictions: tuple[Prediction, ...]
    seen: Conditions | None = None


@dataclass(frozen=True)
class Hysteresis:
    """How much has to be gained to move (share of the present prediction, and seconds), and how often at most."""

    min_gain: float = 0.02
    min_gain_s: float = 0.002
    dwell_s: float = 0.25


def predict(profile: SplitProfile, conditions: Conditions, *, local_s: float = math.inf) -> Prediction:
    """The latency of one frame at one split; infinite where the link is needed and not there.

    ``local_s``: what a local run takes now, by which a stalled transfer is rescued.
    """
    head_s = (profile.head_s + profile.release_s) * conditions.load
    if profile.payload_bytes == 0:
        return Prediction(profile.split, head_s, head_s, 0.0, 0.0, 0.0)
    link = conditions.link.ahead(head_s)
    if not conditions.link_up or link.uplink_bytes_s is None:
        return Prediction(profile.split, math.inf, head_s, math.inf, 0.0, 0.0)
    rtt_s = link.rtt_s if link.rtt_s is not None else _UNKNOWN_RTT_S
    server_s = conditions.queue_s + profile.tail_s
    on_wire_bytes = wire_bytes(profile.payload_bytes, profile.payload_bytes)
    likely_s = on_wire_bytes / link.uplink_bytes_s + link.silent_s
    least, most = _SPREAD
    spread = 0.0 if link.rate_spread == 0.0 else min(most, math.hypot(link.rate_spread, least))
    rescued_s = likely_s * _RESCUED_AFTER + _RESCUED_AFTER_S + local_s
    transfer_s = _expected_least(likely_s, spread, rescued_s)
    fixed_s = head_s + rtt_s + server_s
    doubt = _chance_above(likely_s, spread, local_s - fixed_s)
    return Prediction(profile.split, fixed_s + transfer_s, head_s, transfer_s, rtt_s, server_s, doubt)


def _expected_least(median: float, spread: float, limit: float) -> float:
    """The expectation of the lesser of ``limit`` and a log-normal variable."""
    if spread == 0.0:
        return min(median, limit)
    depth = math.log(limit / median) / spread if limit < math.inf else math.inf
    below = median * math.exp(spread**2 / 2.0) * _normal(depth - spread)
    return below + (limit * _normal(-depth) if limit < math.inf else 0.0)


def _chance_above(median: float, spread: float, limit: float) -> float:
    """The chance that a log-normal variable exceeds ``limit``."""
    if limit <= 0.0:
        return 1.0
    if spread == 0.0 or limit == math.inf:
        return float(median > limit)
    return _normal(math.log(median / limit) / spread)


def _normal(x: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


class Planner:
    """Remembers the split point in force and when it moved; decides from what it is handed.

    ``profiles`` must include ``local``; ``fixed`` pins the split, for comparison and for those who know better.
    """

    def __init__(
        self,
        profiles: Sequence[SplitProfile],
        *,
        local: int,
        hysteresis: Hysteresis,
        fixed: int | None = None,
        objective: Objective = "latency",
    ) -> None:
        self._profiles = {profile.split: profile for profile in profiles}
        if local not in self._profiles or (fixed is not None and fixed not in self._profiles):
            raise ValueError(f"no profile for split {local if local not in self._profiles else fixed}")
        self.local = local
        self.split = local if fixed is None else fixed
        self._fixed = fixed
        self.objective = objective
        self._hysteresis = hysteresis
        self._moved_s = -math.inf

    def update_profile(self, profile: SplitProfile) -> None:
        """Replace what is known of one split, as measurements come in."""
        self._profiles[profile.split] = profile

    @property
    def splits(self) -> frozenset[int]:
        """Every split it may choose, ``local`` included."""
        return frozenset(self._profiles)

    def profile(self, split: int) -> SplitProfile:
        """What is known of one split."""
        return self._profiles[split]

    def decide(self, conditions: Conditions, *, now_s: float, ready: frozenset[int]) -> Decision:
        """Choose among the splits in ``ready`` (those whose tail the server hosts; ``local`` always is)."""
        if self.objective == "throughput":  # our own frames queue up before a slow tail: that is its time, no more
            conditions = replace(conditions, queue_s=0.0)
        candidates = [p for split, p in self._profiles.items() if split in ready or split == self.local]
        local_s = self._profiles[self.local].head_s * conditions.load
        predictions = tuple(predict(profile, conditions, local_s=local_s) for profile in candidates)
        by_split = {prediction.split: prediction for prediction in predictions}
        if self._fixed is not None:
            usable = self._fixed in by_split and (self._fixed == self.local or conditions.link_up)
            chosen = self._fixed if usable else self.local
            return self._move(
                chosen, "fixed by the config" if usable else "the link is down", predictions, conditions, now_s
            )
        best = min(predictions, key=lambda prediction: prediction.cost_s(self.objective))
        present = by_split.get(self.split)
        if present is None or math.isinf(present.total_s):
            why = "the link is down" if not conditions.link_up else "the split in force is not to be had"
            return self._move(best.split, why, predictions, conditions, now_s)
        present_s = present.cost_s(self.objective)
        gain_s = present_s - best.cost_s(self.objective)
        needed_s = max(self._hysteresis.min_gain * present_s, self._hysteresis.min_gain_s)
        if best.split == self.split or gain_s < needed_s:
            return self._move(self.split, "no clear gain elsewhere", predictions, conditions, now_s)
        if now_s - self._moved_s < self._hysteresis.dwell_s:
            return self._move(self.split, "moved a moment ago", predictions, conditions, now_s)
        why = f"saves {gain_s * 1e3:.0f} ms of {present_s * 1e3:.0f} ms"
        return self._move(best.split, why, predictions, conditions, now_s)

    def _move(
        self, split: int, why: str, predictions: tuple[Prediction, ...], seen: Conditions, now_s: float
    ) -> Decision:
        moved = split != self.split
        if moved:
            self.split = split
            self._moved_s = now_s
        return Decision(split, moved, why, predictions, seen)

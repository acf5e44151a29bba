"""Decides where to cut now. Pure: profiles and conditions in, a decision with its reasons out.

For every cut it predicts (see `prediction`), with the estimated link and load::

    time = head · load + release · load + bytes / uplink + round trip + queue + tail

and takes the shortest, but leaves the present split point only for a clear gain, and not more often than the dwell
time allows. A lost link moves it to ``local`` at once. With the objective ``throughput`` it takes the split with
the fastest bottleneck instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from edge_runtime.planner.prediction import Conditions, Objective, Prediction, SplitProfile, predict


class Decision(msgspec.Struct, frozen=True):
    """The split point from now on, with the observed conditions and the prediction for every candidate.

    ``moved_from``: the previous split point, None if it did not move. ``hedge``: whether to also continue here
    after the head.
    """

    split: int
    moved_from: int | None
    why: str
    predictions: tuple[Prediction, ...]
    seen: Conditions | None = None
    hedge: bool = False

    def expected_at(self, split: int) -> Prediction | None:
        """The prediction for one split, None where there is none."""
        return next((prediction for prediction in self.predictions if prediction.split == split), None)

    @property
    def moved(self) -> bool:
        """Whether the split point differs from the one before."""
        return self.moved_from is not None


class AfterHead(msgspec.Struct, frozen=True):
    """The offload decision after the head: ``send`` its features, or continue here.

    ``expected``: the prediction for sending now. ``hedge``: whether to continue here as well.
    """

    send: bool
    expected: Prediction | None
    hedge: bool = False


@dataclass(frozen=True)
class Hysteresis:
    """The minimum gain for a move (share of the present prediction, and seconds), and the minimum dwell time."""

    min_gain: float = 0.02
    min_gain_s: float = 0.002
    dwell_s: float = 0.25


class Planner:
    """Remembers the present split point and the time of its last move; decides from its arguments.

    ``profiles`` must include ``local``; ``fixed`` pins the split, for comparisons or by the user's choice.
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
        self.hysteresis = hysteresis
        self._moved_s = -math.inf

    @property
    def fixed(self) -> int | None:
        """The pinned split, None if the planner is free."""
        return self._fixed

    def cost_s(self, profiles: Sequence[SplitProfile], conditions: Conditions) -> float:
        """Cost of a frame in seconds at the best of some cuts, as `decide` weighs it; infinite for none."""
        seen = self._weighed(conditions)
        local_s = self._profiles[self.local].head_s * seen.load
        costs = (predict(profile, seen, local_s=local_s).cost_s(self.objective) for profile in profiles)
        return min(costs, default=math.inf)

    def update_profile(self, profile: SplitProfile) -> None:
        """Replace the profile of one split, as measurements come in."""
        self._profiles[profile.split] = profile

    @property
    def is_fixed(self) -> bool:
        """Whether the user pinned the split: then a frame is finished here only when its answer is overdue."""
        return self._fixed is not None

    @property
    def splits(self) -> frozenset[int]:
        """Every split that the planner may choose, ``local`` included."""
        return frozenset(self._profiles)

    def profile(self, split: int) -> SplitProfile:
        """The profile of one split."""
        return self._profiles[split]

    def decide(self, conditions: Conditions, *, now_s: float, ready: frozenset[int]) -> Decision:
        """Choose among the splits in ``ready`` (those whose tail the server hosts; ``local`` always is)."""
        conditions = self._weighed(conditions)
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
            why = "the link is down" if not conditions.link_up else "the current split is unavailable"
            return self._move(best.split, why, predictions, conditions, now_s)
        present_s = present.cost_s(self.objective)
        gain_s = present_s - best.cost_s(self.objective)
        needed_s = max(self.hysteresis.min_gain * present_s, self.hysteresis.min_gain_s)
        if best.split == self.split or gain_s < needed_s:
            return self._move(self.split, "no clear gain elsewhere", predictions, conditions, now_s)
        if now_s - self._moved_s < self.hysteresis.dwell_s:
            return self._move(self.split, "moved a moment ago", predictions, conditions, now_s)
        why = f"saves {gain_s * 1e3:.0f} ms of {present_s * 1e3:.0f} ms"
        return self._move(best.split, why, predictions, conditions, now_s)

    def after_head(self, split: int, conditions: Conditions, *, was_local: bool) -> AfterHead:
        """Decide again when the head of ``split`` is done, with the present link.

        A frame planned for the server is finished here if that is sooner. A frame planned as local (``was_local``)
        is sent only for a clear gain.
        """
        profile = self._profiles[split]
        local_s = self._profiles[self.local].head_s * conditions.load
        expected = predict(replace(profile, head_s=0.0), conditions, local_s=local_s)
        local_tail_s = local_s if profile.local_tail_s is None else profile.local_tail_s * conditions.load
        left_s = conditions.local_wait_s + local_tail_s
        needed_s = max(self.hysteresis.min_gain * left_s, self.hysteresis.min_gain_s) if was_local else 0.0
        send = expected.cost_s("latency") <= left_s - needed_s
        return AfterHead(send=send, expected=expected, hedge=expected.hedged)

    def _weighed(self, conditions: Conditions) -> Conditions:
        """The conditions that count under this objective."""
        if self.objective == "throughput":  # our own frames queue before a slow tail: its time counts already
            conditions = replace(conditions, queue_s=0.0, uplink_busy_s=0.0)
        if self.objective == "throughput" or self.is_fixed:
            conditions = replace(conditions, may_hedge=False)
        return conditions

    def _move(
        self, split: int, why: str, predictions: tuple[Prediction, ...], seen: Conditions, now_s: float
    ) -> Decision:
        moved_from = self.split if split != self.split else None
        if moved_from is not None:
            self.split = split
            self._moved_s = now_s
        hedge = any(prediction.hedged for prediction in predictions if prediction.split == split)
        return Decision(split, moved_from, why, predictions, seen, hedge)

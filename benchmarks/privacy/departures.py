"""How well a server tells two kinds of frames apart by when their releases arrive: a classifier, as a figure.

The server is given more than it has: it knows when each frame was captured, and has examples of both kinds. The
classifier is a threshold, of one frame on its departure, and of a hundred frames of one kind on their mean, median
or 95th percentile, whichever is best. It learns from one half of the pairs of blocks and is asked about the other,
and the other way round. 0.5 is a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from split_model.audit.bounds import at_least, at_most

_ERROR = 0.025
_TOGETHER = 100
_RESAMPLES = 1000
Floats = NDArray[np.float64]
_SUMMARIES: tuple[Callable[[Floats], float], ...] = (
    lambda values: float(values.mean()),
    lambda values: float(np.median(values)),
    lambda values: float(np.quantile(values, 0.95)),
)


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers, 0 to 1, with its 95 % interval; ``of``: how many were asked for."""

    value: float
    low: float
    high: float
    of: int


@dataclass(frozen=True)
class _Threshold:
    at: float
    above: int

    def answers(self, values: Floats) -> NDArray[np.intp]:
        return np.where(values > self.at, self.above, 1 - self.above)


def per_frame(pairs: Sequence[tuple[Floats, Floats]]) -> Accuracy | None:
    """Of single frames, both kinds equally likely; None where too few frames were sent.

    The interval is that of pairs of blocks drawn anew: frames of one block are alike.
    """
    rows = []
    for known, asked in _halves(pairs):
        if not known:
            return None
        values, kinds = _labelled(known)
        if len(set(kinds.tolist())) < 2:
            return None
        threshold = _best(values, kinds)
        rows += [[_right(threshold, side, kind) for kind, side in enumerate(both)] for both in asked]
    counts = np.array(rows, np.float64)  # [pairs, kind, (right, all)]
    if not (counts[..., 1].sum(axis=0) > 0).all():
        return None
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(counts), size=(_RESAMPLES, len(counts)))
    shares = [_share(counts[which]) for which in drawn]
    low, high = np.nanquantile(shares, (_ERROR, 1 - _ERROR))
    return Accuracy(_share(counts), float(low), float(high), int(counts[..., 1].sum()))


def per_hundred(pairs: Sequence[tuple[Floats, Floats]]) -> Accuracy | None:
    """Of a hundred frames of one kind that come one after another; None where too few frames were sent."""
    right = asked_for = 0
    for known, asked in _halves(pairs):
        if not known or not asked:
            return None
        examples, questions = _hundreds(known), _hundreds(asked)
        if min(map(len, examples)) < 2:
            return None
        fits = []
        for summary in _SUMMARIES:
            values, kinds = _labelled([tuple(np.array([summary(x) for x in side]) for side in examples)])
            threshold = _best(values, kinds)
            fits.append((float((threshold.answers(values) == kinds).mean()), threshold, summary))
        _, threshold, summary = max(fits, key=lambda fit: fit[0])
        for kind, side in enumerate(questions):
            values = np.array([summary(one) for one in side])
            right += int((threshold.answers(values) == kind).sum())
            asked_for += len(side)
    if not asked_for:
        return None
    low, high = at_least(right, asked_for, _ERROR), at_most(right, asked_for, _ERROR)
    return Accuracy(right / asked_for, low, high, asked_for)


def _halves(pairs: Sequence[tuple[Floats, Floats]]) -> list[tuple[list[Sequence[Floats]], list[Sequence[Floats]]]]:
    """To learn from and to ask about: runs of pairs in turn, so that both halves see what drifts."""
    run = _TOGETHER // 20
    halves: tuple[list[Sequence[Floats]], list[Sequence[Floats]]] = ([], [])
    for number, both in enumerate(pairs):
        halves[number // run % 2].append(both)
    return [(halves[0], halves[1]), (halves[1], halves[0])]


def _labelled(pairs: Sequence[Sequence[Floats]]) -> tuple[Floats, NDArray[np.intp]]:
    values = np.concatenate([side for both in pairs for side in both])
    kinds = np.concatenate([np.full(side.size, kind) for both in pairs for kind, side in enumerate(both)])
    return values, kinds


def _best(values: Floats, kinds: NDArray[np.intp]) -> _Threshold:
    """The threshold with the best mean of both kinds' shares of right answers."""
    order = np.argsort(values, kind="stable")
    ordered = kinds[order]
    below = [np.cumsum(ordered == kind) / max(1, int((ordered == kind).sum())) for kind in (0, 1)]
    gain = below[0] - below[1]  # how much more of kind 0 lies at or below this value
    place = int(np.abs(gain).argmax())
    return _Threshold(float(values[order[place]]), 1 if gain[place] >= 0 else 0)


def _right(threshold: _Threshold, values: Floats, kind: int) -> tuple[int, int]:
    return int((threshold.answers(values) == kind).sum()), int(values.size)


def _share(counts: Floats) -> float:
    """The mean of both kinds' shares of right answers."""
    sums = counts.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return float((sums[:, 0] / sums[:, 1]).mean())


def _hundreds(pairs: Sequence[Sequence[Floats]]) -> list[list[Floats]]:
    """The frames of each kind, a hundred at a time."""
    sides = [np.concatenate([both[kind] for both in pairs]) for kind in (0, 1)]
    return [[side[at : at + _TOGETHER] for at in range(0, len(side) - _TOGETHER + 1, _TOGETHER)] for side in sides]

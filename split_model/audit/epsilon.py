"""A lower bound on the true ε of a release, from what leaves the device when it is given one of two inputs.

Pure ε-DP says P(event | one) ≤ e^ε·P(event | other) for every event, whatever is observed: the values of the
payload, its length, when it came. The trials are split in three. From the first part events are learned (a
threshold on a value, on the likelihood ratio of all values, on the time; a length; a payload seen before), on the
second the most telling one is chosen, and on the third, which had no part in the choice, Clopper-Pearson bounds on
both probabilities give the bound. It is too large with a chance of at most ``error``, whatever the release does.
A bound below the claim proves nothing; a bound above it proves a bug.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array
from split_model.audit.bounds import at_least, at_most

_THRESHOLDS = 33
_LENGTHS = 8
_BINS = 64
_CAUTION = 4.0  # standard errors by which a share is taken worse than seen while choosing

Event = Callable[["Observed"], NDArray[np.bool_]]


@dataclass(frozen=True)
class Observed:
    """Observations of trials: payload values [trials, values], payload bytes [trials], seconds [trials]."""

    values: Array
    lengths: Array
    seconds: NDArray[np.float64]

    def __len__(self) -> int:
        """Number of trials."""
        return len(self.lengths)

    def part(self, start: float, stop: float) -> Observed:
        """The trials from one share of them to another."""
        numbers = np.arange(len(self))
        return self.where((numbers >= int(start * len(self))) & (numbers < int(stop * len(self))))

    def where(self, chosen: NDArray[np.bool_]) -> Observed:
        """The trials for which ``chosen`` [trials] holds."""
        return Observed(self.values[chosen], self.lengths[chosen], self.seconds[chosen])


@dataclass(frozen=True)
class Finding:
    """The bound, the event that gave it, and the bounds on its probability under the two inputs."""

    epsilon: float
    event: str
    often: float
    rare: float


def lower_bound(one: Observed, other: Observed, *, error: float = 1e-6) -> Finding:
    """The largest ε that the trials prove between the two inputs, in either direction; 0 where they prove none."""
    events = dict(_events(one.part(0, 0.25), other.part(0, 0.25)))
    found = Finding(0.0, "none", 0.0, 1.0)
    for up, down in ((one, other), (other, one)):
        name = max(events, key=lambda name, up=up, down=down: _promise(events[name], up, down))  # type: ignore[misc]
        confirm, against = up.part(0.5, 1), down.part(0.5, 1)
        often = at_least(int(events[name](confirm).sum()), len(confirm), error / 4)
        rare = at_most(int(events[name](against).sum()), len(against), error / 4)
        if often > 0 and math.log(often / rare) > found.epsilon:
            found = Finding(math.log(often / rare), name, often, rare)
    return found


def _promise(event: Event, up: Observed, down: Observed) -> float:
    """About what an event will prove, judged on the second quarter of the trials."""
    shares = []
    for side, sign in ((up, -1), (down, 1)):
        seen = event(side.part(0.25, 0.5))
        share, count = float(seen.mean()), seen.size
        # Without an event seen, or with nothing but, a few more would still be no surprise.
        deviation = math.sqrt(max(share * (1 - share), 1 / count) / count)
        shares.append(share + sign * _CAUTION * deviation)
    often, rare = shares
    return math.log(often / rare) if often > 0 else -math.inf


def _events(one: Observed, other: Observed) -> Iterator[tuple[str, Event]]:
    both = np.concatenate([one.values, other.values])
    for column in range(both.shape[1]):
        for threshold in _cuts(both[:, column]):
            yield from _sides(f"value {column}", lambda seen, c=column: seen.values[:, c], threshold)  # type: ignore[misc]
    score = _Score(one.values, other.values)
    for threshold in _cuts(score(both)):
        yield from _sides("likelihood ratio", lambda seen: score(seen.values), threshold)
    lengths = np.unique(np.concatenate([one.lengths, other.lengths]))[:_LENGTHS]
    for length in lengths.tolist():
        yield f"length = {length}", lambda seen, length=length: seen.lengths == length  # type: ignore[misc]
    for threshold in _cuts(np.concatenate([one.seconds, other.seconds])):
        yield from _sides("time", lambda seen: seen.seconds, threshold)
    for which, part in (("one", one), ("other", other)):
        known = {row.tobytes() for row in part.values}
        yield (
            f"payload seen under {which}",
            lambda seen, known=known: np.array(  # type: ignore[misc]
                [row.tobytes() in known for row in seen.values]
            ),
        )


def _cuts(values: Array) -> list[float]:
    return [float(value) for value in np.unique(np.quantile(values, np.linspace(0, 1, _THRESHOLDS)))]


def _sides(name: str, read: Callable[[Observed], Array], threshold: float) -> Iterator[tuple[str, Event]]:
    yield f"{name} >= {threshold:g}", lambda seen: read(seen) >= threshold
    yield f"{name} < {threshold:g}", lambda seen: read(seen) < threshold


class _Score:
    """The sum over the values of the logarithm of how much likelier each is under the one input than the other."""

    def __init__(self, one: Array, other: Array) -> None:
        self._tables = []
        for column in range(one.shape[1]):
            low, high = (f(np.concatenate([one[:, column], other[:, column]])) for f in (np.min, np.max))
            edges = np.linspace(low, high, min(_BINS, int(high - low) + 1) + 1)[1:-1]
            counts = [
                np.bincount(np.digitize(side[:, column], edges), minlength=edges.size + 1) for side in (one, other)
            ]
            ratio = np.log((counts[0] + 0.5) / len(one)) - np.log((counts[1] + 0.5) / len(other))
            self._tables.append((edges, ratio))

    def __call__(self, values: Array) -> NDArray[np.float64]:
        total = np.zeros(len(values))
        for column, (edges, ratio) in enumerate(self._tables):
            total += ratio[np.digitize(values[:, column], edges)]
        return total

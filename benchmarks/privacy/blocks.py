"""Whether two kinds of frames look different to a server: blocks of frames, their features, a permutation test.

Blocks come in pairs, one of each kind in an order that a coin decides: whatever drifts meanwhile meets both. The
test is on the differences within the pairs: its statistic is the largest of the features' paired t, and its p-value
the share of random exchanges within the pairs with a statistic at least as large. If the kinds look alike, the
server would have seen the same whichever way the coins fell. So p is below a level no more often than that level
says, whatever the features' distributions are and whatever else the machine does.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.privacy.view_server import Seen
from split_model.protocol.messages import Report

_EXCHANGES = 20_000
#: Features of a block without times, and those of times. A request is cancelled where a local run is done first.
CHOICES = ("requests", "bytes", "mean cut", "cut changes", "mean place")
TIMES = ("mean departure", "median departure", "spread of departures", "latest departure", "cancels")

#: Features of the reports of a device on itself: what a block added to counts, and what was true at its end.
REPORTS = (
    "frames",
    "local",
    "fallback",
    "failed",
    "dropped",
    "late",
    "moves",
    "split",
    "expected",
    "offload",
    "load",
)


@dataclass(frozen=True)
class Block:
    """Frames of one kind; ``due_s``: when each was captured, by the server's clock.

    ``sent``: the places of those that the server answered, in the order in which they came. ``load``: the factor
    that the device decided with, the median of the block's frames; the server does not see it.
    """

    due_s: tuple[float, ...]
    end_s: float
    sent: tuple[int, ...] = ()
    load: float = 1.0

    def within(self, seen: Sequence[Seen]) -> list[Seen]:
        """What the server saw of this block."""
        return [one for one in seen if self.due_s[0] <= one.at_s < self.end_s]


def choices(block: Block, seen: Sequence[Seen]) -> list[float]:
    """What the server sees of cut, size, order and number; nothing of times."""
    requests = [one for one in block.within(seen) if one.what == "request"]
    cuts = [one.cut for one in requests]
    changes = sum(before != after for before, after in itertools.pairwise(cuts))
    size = sum(one.payload_bytes for one in requests)
    place = float(np.mean(block.sent)) if block.sent else len(block.due_s) / 2
    return [float(len(requests)), float(size), float(np.mean(cuts or [-1])), changes, place]


def said(block: Block, reports: Sequence[tuple[float, Report]]) -> list[float]:
    """What the device says of itself in the reports of a block, the last one against the last before it."""
    before = next((one for at_s, one in reversed(reports) if at_s < block.due_s[0]), None)
    after = next((one for at_s, one in reversed(reports) if at_s < block.end_s), None)
    if after is None:
        return [0.0] * len(REPORTS)
    names = ("frames_in", "local", "fallback", "failed", "dropped", "late", "moves")
    counts = [getattr(after.frames, name) - (getattr(before.frames, name) if before else 0) for name in names]
    offload_s = 0.0 if after.offload is None else after.offload.median_s
    return [*map(float, counts), float(after.split or 0), after.expected_s or 0.0, offload_s, after.board.load]


def departures_s(block: Block, seen: Sequence[Seen]) -> NDArray[np.float64]:
    """Seconds from when each frame that was sent was captured to when its request is there."""
    dues = np.array(block.due_s)
    arrived = np.array([one.at_s for one in block.within(seen) if one.what == "request"])
    if len(arrived) == len(block.sent):
        delays: NDArray[np.float64] = arrived - dues[list(block.sent)]
        return delays
    return np.array([at_s - dues[dues <= at_s].max() for at_s in arrived])


def times(block: Block, seen: Sequence[Seen]) -> list[float]:
    """The features of `departures_s`; of a block without requests nothing."""
    delays = departures_s(block, seen)
    if not delays.size:
        return [0.0] * len(TIMES)
    cancels = sum(one.what == "cancel" for one in block.within(seen))
    return [*(float(of(delays)) for of in (np.mean, np.median, np.std, np.max)), float(cancels)]


class Observed(msgspec.Struct, frozen=True):
    """What the server saw of a block: features without times, of times and of reports, and when each request came.

    ``load`` and ``interval_s``, between two frames, it does not see.
    """

    choices: list[float]
    times: list[float]
    departures_s: list[float]
    load: float
    interval_s: float
    reports: list[float]

    @classmethod
    def of(
        cls, block: Block, seen: Sequence[Seen], reports: Sequence[tuple[float, Report]], *, interval_s: float
    ) -> Observed:
        """Of all that the server saw and was told, what belongs to a block."""
        mine = block.within(seen)
        departures = [round(float(value), 6) for value in departures_s(block, mine)]
        return cls(
            choices(block, mine), times(block, mine), departures, block.load, interval_s, said(block, reports)
        )


@dataclass(frozen=True)
class Found:
    """``p``: of the test. ``feature``: the one that differs most, on average by ``difference``."""

    p: float
    feature: str
    difference: float


def differs(one: NDArray[np.float64], other: NDArray[np.float64], names: Sequence[str], *, seed: int = 0) -> Found:
    """The paired permutation test of features [pairs, features] of two kinds."""
    deltas = one - other
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], size=(_EXCHANGES, len(deltas)))
    squares = np.sqrt((deltas**2).sum(axis=0)) + 1e-12
    exchanged = (np.abs(signs @ deltas) / squares).max(axis=1)
    found = np.abs(deltas.sum(axis=0)) / squares
    p = (1 + int((exchanged >= found.max() - 1e-9).sum())) / (1 + _EXCHANGES)
    most = int(found.argmax())
    return Found(p, names[most], float(deltas[:, most].mean()))


def rejected(ps: Sequence[float], *, level: float) -> list[bool]:
    """Holm's method: which of several tests find a difference; with no difference at all, any does at ``level``."""
    found = [False] * len(ps)
    for rank, which in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        if ps[which] > level / (len(ps) - rank):
            break
        found[which] = True
    return found

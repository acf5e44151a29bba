"""Whether two kinds of frames look different to a server: blocks of frames, their features, a permutation test.

Blocks come in pairs, one of each kind in random order, so that whatever drifts meanwhile meets both. The test is on
the differences within the pairs: its statistic is the largest of the features' paired t, and its p-value the share
of random exchanges within the pairs with a statistic at least as large. If the kinds look alike, exchanging them
changes nothing, so p is below a level no more often than that level says, whatever the features' distributions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.privacy.view_server import Seen

_EXCHANGES = 20_000
#: Features of a block without times, and those of departure times.
CHOICES = ("requests", "bytes", "mean cut", "cut changes", "first request", "cancels")
TIMES = ("mean departure", "spread of departures", "latest departure")


@dataclass(frozen=True)
class Block:
    """Frames of one kind; ``due_s``: when each was captured, by the server's clock."""

    kind: str
    due_s: tuple[float, ...]
    end_s: float


def choices(block: Block, seen: Sequence[Seen]) -> list[float]:
    """What the server sees of cut, size, order and number."""
    requests = [one for one in seen if one.what == "request"]
    cuts = [one.cut for one in requests]
    changes = sum(before != after for before, after in itertools.pairwise(cuts))
    first = next((i for i, due_s in enumerate(block.due_s) if _within(block, i, requests, due_s)), len(block.due_s))
    size = sum(one.payload_bytes for one in requests)
    cancels = sum(one.what == "cancel" for one in seen)
    return [float(len(requests)), float(size), float(np.mean(cuts or [-1])), changes, first, cancels]


def times(block: Block, seen: Sequence[Seen]) -> list[float]:
    """When requests arrive, from when their frames were captured; of a block without requests nothing."""
    dues = np.array(block.due_s)
    arrived = [one.at_s for one in seen if one.what == "request" and one.at_s >= dues[0]]
    delays = [at_s - dues[dues <= at_s].max() for at_s in arrived]
    if not delays:
        return [0.0, 0.0, 0.0]
    return [float(np.mean(delays)), float(np.std(delays)), float(np.max(delays))]


def _within(block: Block, index: int, requests: Sequence[Seen], due_s: float) -> bool:
    until_s = block.due_s[index + 1] if index + 1 < len(block.due_s) else block.end_s
    return any(due_s <= one.at_s < until_s for one in requests)


def features(block: Block, seen: Sequence[Seen]) -> dict[str, list[float]]:
    """Both kinds of features of a block."""
    mine = [one for one in seen if block.due_s[0] <= one.at_s < block.end_s]
    return {"choices": choices(block, mine), "times": times(block, mine)}


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

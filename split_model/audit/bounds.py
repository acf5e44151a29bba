"""Exact confidence bounds on a probability from counted events (Clopper and Pearson 1934)."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_STEPS = 40  # of bisection: the bound is then within 1e-12


@lru_cache(maxsize=8)
def _log_factorials(count: int) -> NDArray[np.float64]:
    logs: NDArray[np.float64] = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    return logs


def binomial_tail(count: int, trials: int, probability: float) -> float:
    """P(X ≥ count) for X binomial."""
    if count <= 0:
        return 1.0
    known = _log_factorials(trials)
    k = np.arange(count, trials + 1)
    logs = known[trials] - known[k] - known[trials - k] + k * math.log(probability)
    logs += (trials - k) * math.log1p(-probability)
    return min(1.0, float(np.exp(logs).sum()))


def at_least(count: int, trials: int, error: float) -> float:
    """An event seen ``count`` times in ``trials`` has at least this probability, but for a chance of ``error``."""
    low, high = 0.0, 1.0
    if count == 0:
        return low
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_tail(count, trials, middle) < error else (low, middle)
    return low


def at_most(count: int, trials: int, error: float) -> float:
    """It has at most this probability, but for a chance of ``error``."""
    return 1.0 - at_least(trials - count, trials, error)


def chernoff_at_least(count: int, trials: int, error: float) -> float:
    """`at_least` by Chernoff's bound: a little lower, and as fast for a million trials as for ten.

    The chance of a share of ``count``/``trials`` or more is at most exp(-trials·KL(share, p)) for a probability p
    below the share, with KL the divergence of two coins.
    """
    if count == 0:
        return 0.0
    share, wanted = count / trials, -math.log(error) / trials
    low, high = 0.0, share
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if middle <= 0 or _divergence(share, middle) > wanted else (low, middle)
    return low


def chernoff_at_most(count: int, trials: int, error: float) -> float:
    """`at_most` by Chernoff's bound."""
    return 1.0 - chernoff_at_least(trials - count, trials, error)


def _divergence(share: float, probability: float) -> float:
    """KL divergence of a coin of ``share`` from one of ``probability``, in nats."""
    found = share * math.log(share / probability) if share > 0 else 0.0
    if share < 1:
        found += (1 - share) * math.log((1 - share) / (1 - probability))
    return found

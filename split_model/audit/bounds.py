"""Exact confidence bounds on a probability from counted events (Clopper and Pearson 1934)."""

from __future__ import annotations

from scipy import special


def at_least(count: int, trials: int, error: float) -> float:
    """An event seen ``count`` times in ``trials`` has at least this probability, but for a chance of ``error``."""
    return float(special.betaincinv(count, trials - count + 1, error)) if count else 0.0


def at_most(count: int, trials: int, error: float) -> float:
    """It has at most this probability, but for a chance of ``error``."""
    return float(special.betaincinv(count + 1, trials - count, 1 - error)) if count < trials else 1.0

"""Converts ρ-zCDP to (ε, δ), by the tight conversion of Canonne, Kamath and Steinke.

*The Discrete Gaussian for Differential Privacy* (2020), Prop. 12 with Cor. 13: ρ-zCDP gives (ε, δ) for every
α > 1 with δ = exp((α - 1)·(α·ρ - ε)) · (1 - 1/α)^α / (α - 1). Each α is a valid bound, so a search over α that
stops early is never wrong, only less tight; the common ε = ρ + 2·√(ρ·ln(1/δ)) is another such bound, and looser.

Standard library only: the device uses it. Results are rounded outwards by more than the arithmetic's error.
"""

from __future__ import annotations

import math
from collections.abc import Callable

_SLACK = 1e-12
_GOLDEN = (math.sqrt(5) - 1) / 2
_SEARCH_STEPS = 200


def zcdp_epsilon(rho: float, delta: float) -> float:
    """The least ε ≥ 0 found for which ρ-zCDP with ``rho`` ≥ 0 gives (ε, ``delta``), 0 ≤ δ < 1.

    For fixed α, ε = α·ρ + (ln(1/δ) - ln(α - 1))/(α - 1) + α/(α - 1)·ln(1 - 1/α), quasi-convex in α.
    """
    if rho < 0 or not 0 <= delta < 1:
        raise ValueError(f"rho = {rho:g}, delta = {delta:g}: rho is at least 0, delta is from 0 to below 1")
    if rho == 0:
        return 0.0
    if delta == 0 or math.isinf(rho):
        return math.inf

    def of(log_excess: float) -> float:
        excess = math.exp(log_excess)  # α - 1
        alpha = 1 + excess
        # (α - 1)·ε = α(α - 1)ρ + ln(1/δ) + α·ln((α - 1)/α) - ln(α - 1)
        return alpha * rho + (-math.log(delta) + excess * log_excess - alpha * math.log1p(excess)) / excess

    best_log = math.log(math.sqrt(-math.log(delta) / rho))  # the best one for the loose conversion
    least = _minimum(of, min(best_log, 0.0) - 8.0, max(best_log, 0.0) + 8.0)
    return max(0.0, least + _SLACK * (1 + abs(least)))


def epsilon_at_delta(pure_epsilon: float, rho: float, delta: float) -> float:
    """The least ε at ``delta`` of releases that have pure ε ``pure_epsilon`` and are ``rho``-zCDP."""
    return min(pure_epsilon, zcdp_epsilon(rho, delta))


def _minimum(of: Callable[[float], float], low: float, high: float) -> float:
    """The least value met by a golden-section search of a quasi-convex function."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = of(left), of(right)
    least = min(at_left, at_right)
    for _ in range(_SEARCH_STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = of(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = of(right)
        least = min(least, at_left, at_right)
    return least

"""The conversion from zCDP the other way round, to compare the product's with: the δ of an ε."""

from __future__ import annotations

import math

_LEAST_LOG = -80.0  # ln(α - 1) is searched from here: α nearer to 1 never is best in floats
_GOLDEN = (math.sqrt(5) - 1) / 2


def zcdp_delta(rho: float, epsilon: float) -> float:
    """The least δ found for which ρ-zCDP with ``rho`` ≥ 0 gives (``epsilon``, δ), ε ≥ 0."""
    if rho == 0:
        return 0.0
    if math.isinf(rho):
        return 1.0

    def log_of(log_excess: float) -> float:
        excess = math.exp(log_excess)
        alpha = 1 + excess
        return excess * (alpha * rho - epsilon) + excess * log_excess - alpha * math.log1p(excess)

    # For α - 1 beyond (ε + 1)/ρ the first term alone is growing.
    least = _minimum(log_of, _LEAST_LOG, max(0.0, math.log((epsilon + 1) / (2 * rho))) + 8.0)
    return min(1.0, math.exp(least + 1e-12 * (1 + abs(least))))


def _minimum(of, low, high):
    """Golden-section search of a quasi-convex function."""
    for _ in range(200):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, right) if of(left) <= of(right) else (left, high)
    return min(of(low), of(high))

"""Intervals of measurements on pictures: each picture is one unit, however often it was released."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from split_model.bundle.evaluation import Mean, Share

#: One-sided, of the accuracy floor.
CONFIDENCE = 0.8

_Z95 = 1.959963984540054
_RESAMPLES = 2000
_HALVINGS = 60
_NEGLIGIBLE = 1e-16


def lower_bound(agreed: float, pictures: int, confidence: float = CONFIDENCE) -> float:
    """The exact one-sided lower bound of a mean agreement (Clopper and Pearson's).

    Args:
        agreed: The sum over pictures of each one's mean agreement, 0 to ``pictures``; whole where every picture
            agrees or does not. Between whole numbers the bound goes on smoothly, with the beta distribution that it
            is a quantile of; means of several releases vary less than single ones, so it stays on the safe side.
        pictures: How many, 1 or more.
        confidence: That the true mean lies above the bound.

    Raises:
        ValueError: There is no picture, or more agreement than pictures.

    """
    if pictures < 1 or not 0 <= agreed <= pictures:
        raise ValueError(f"an agreement of {agreed} of {pictures} pictures")
    if agreed == 0:
        return 0.0
    if agreed == pictures:
        return float((1 - confidence) ** (1 / pictures))
    below = 1 - confidence
    return _root(lambda p: _beta_share(p, agreed, pictures - agreed + 1) - below)


def upper_bound(agreed: float, pictures: int, confidence: float = CONFIDENCE) -> float:
    """The exact one-sided upper bound; see `lower_bound`."""
    return 1.0 - lower_bound(pictures - agreed, pictures, confidence)


def _root(rising: Callable[[float], float]) -> float:
    """Where a rising function of 0 to 1 changes its sign, from below."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return low


def _beta_share(p: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, the share below ``p`` of a beta distribution.

    By its series of positive terms, on the side of the mean where that converges fast.
    """
    if p > (a + 1) / (a + b + 2):
        return 1.0 - _beta_share(1.0 - p, b, a)
    if p <= 0.0:
        return 0.0
    front = a * math.log(p) + b * math.log1p(-p) + math.lgamma(a + b) - math.lgamma(a + 1) - math.lgamma(b)
    term, total, at = 1.0, 1.0, 0
    while term > _NEGLIGIBLE * total:
        term *= p * (a + b + at) / (a + 1 + at)
        total += term
        at += 1
    return math.exp(front) * total


def wilson(value: float, samples: int) -> Share:
    """A proportion with its Wilson score interval at 95 %; raises `ValueError` without samples."""
    if samples < 1:
        raise ValueError("a proportion of no samples")
    square = _Z95**2
    centre = (value + square / (2 * samples)) / (1 + square / samples)
    half = _Z95 * math.sqrt(value * (1 - value) / samples + square / (4 * samples**2)) / (1 + square / samples)
    # At the ends the formula gives 0 and 1 but for rounding.
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Share(value=value, low=min(low, value), high=max(high, value), samples=samples)


def bootstrap(values: Sequence[float]) -> Mean:
    """A mean with its 95 % percentile interval over resampled samples; the same values give the same interval."""
    known = np.asarray(values, np.float64)
    picked = np.random.default_rng(0).integers(0, known.size, (_RESAMPLES, known.size))
    low, high = np.quantile(known[picked].mean(axis=1), [0.025, 0.975])
    return Mean(value=float(known.mean()), low=float(low), high=float(high), samples=known.size)

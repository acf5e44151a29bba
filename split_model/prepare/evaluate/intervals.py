"""Intervals of measurements on pictures: each picture is one unit, however often it was released."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from split_model.bundle.evaluation import Mean, Share

#: One-sided, of the accuracy floor.
CONFIDENCE = 0.8

_Z95 = 1.959963984540054
_RESAMPLES = 2000


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
    return float(special.betaincinv(agreed, pictures - agreed + 1, 1 - confidence))


def upper_bound(agreed: float, pictures: int, confidence: float = CONFIDENCE) -> float:
    """The exact one-sided upper bound; see `lower_bound`."""
    return 1.0 - lower_bound(pictures - agreed, pictures, confidence)


def wilson(value: float, samples: int) -> Share:
    """A proportion with its Wilson score interval at 95 %; raises `ValueError` without samples.

    SciPy has it for whole counts only; a mean agreement of several releases a picture is none.
    """
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

"""Confidence intervals of measurements on pictures: each picture is one unit, for any number of releases."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from split_model.bundle.evaluation import Mean, Share

#: One-sided confidence level of the accuracy floor.
CONFIDENCE = 0.8

_Z95 = 1.959963984540054
_RESAMPLES = 2000


def lower_bound(agreed: float, pictures: int, confidence: float = CONFIDENCE) -> float:
    """The exact one-sided lower bound of a mean agreement (Clopper and Pearson's).

    Args:
        agreed: The sum over pictures of each one's mean agreement, 0 to ``pictures``. It need not be an integer:
            the bound is
                a quantile of a beta distribution, so it is continuous. Means of several releases vary less than
                single ones, so
                the bound is conservative.
        pictures: Their number, 1 or more.
        confidence: Probability that the true mean lies above the bound.

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

    SciPy has it only for integer counts; a sum of mean agreements is not an integer.
    """
    if samples < 1:
        raise ValueError("a proportion of no samples")
    square = _Z95**2
    centre = (value + square / (2 * samples)) / (1 + square / samples)
    half = _Z95 * math.sqrt(value * (1 - value) / samples + square / (4 * samples**2)) / (1 + square / samples)
    # At the ends the formula gives 0 and 1 up to rounding.
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Share(value=value, low=min(low, value), high=max(high, value), samples=samples)


def bootstrap(values: Sequence[float]) -> Mean:
    """A mean with its 95 % percentile interval over resampled samples; the same values give the same interval."""
    known = np.asarray(values, np.float64)
    picked = np.random.default_rng(0).integers(0, known.size, (_RESAMPLES, known.size))
    low, high = np.quantile(known[picked].mean(axis=1), [0.025, 0.975])
    return Mean(value=float(known.mean()), low=float(low), high=float(high), samples=known.size)

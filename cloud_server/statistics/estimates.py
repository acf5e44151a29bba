"""Unbiased estimates from randomised responses: the linear inverse, with intervals. Pure arithmetic.

A device sends its true codeword with probability p = e^ε/(e^ε + k - 1), and any other with q = 1/(e^ε + k - 1)
each. Of N frames let M have had a codeword, and n of the responses name it: E[n] = M·p + (N - M)·q, so
(n - N·q)/(p - q) is an unbiased estimate of M (Kairouz, Bonawitz and Ramage, "Discrete distribution estimation
under local privacy", ICML 2016).

The intervals cover the randomness of the mechanism and nothing else: M is the number of *these* frames, whatever
their origin, so consecutive frames of one scene need not be independent. The interval for one codeword is Wilson's,
inverted for the variance M·p(1-p) + (N - M)·q(1-q); for a pair of codewords it is the estimate and 1.96 standard
deviations, where the variance takes the estimate for the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from split_model.privacy.codebook import keep_probability

Floats = NDArray[np.float64]

#: The quantile of a two-sided interval of 95 %.
Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Response:
    """The probabilities of randomised response for one codeword.

    Attributes:
        codewords: k, the number of codewords.
        kept: The probability p that the true codeword is sent; for a set, that one of the set is sent.
        other: The probability q of sending a codeword, or one of a set, that is not true.

    """

    codewords: int
    kept: float
    other: float

    @classmethod
    def of(cls, codewords: int, epsilon: float) -> Response:
        """Make the response of ``codewords`` codewords at pure ``epsilon`` a codeword."""
        kept = keep_probability(codewords, epsilon)
        return cls(codewords, kept, (1.0 - kept) / (codewords - 1))

    def of_set(self, size: int) -> Response:
        """The response for a set of ``size`` codewords together: inside the set or outside."""
        return Response(self.codewords, self.kept + (size - 1) * self.other, size * self.other)

    @property
    def gap(self) -> float:
        """The difference p - q: how much more often a codeword is sent if it is true."""
        return self.kept - self.other


@dataclass(frozen=True, slots=True)
class Estimates:
    """Numbers of frames, each with an interval of 95 %; arrays of one shape.

    Attributes:
        frames: The unbiased estimates. One may be below zero or above the number of frames by chance; that is not
            an error.
        low: The intervals' lower ends, at least 0.
        high: Their upper ends, at most the number of frames.

    """

    frames: Floats
    low: Floats
    high: Floats


def single(response: Response, counts: ArrayLike, frames: int) -> Estimates:
    """Estimate in how many of ``frames`` frames each codeword was true.

    Args:
        response: The devices' response.
        counts: The number of responses that name a codeword, for any selection of codewords, of any shape.
        frames: The number of responses in all.

    Returns:
        Estimates of the shape of ``counts``.

    """
    p, q, gap = response.kept, response.other, response.gap
    excess = np.asarray(counts, np.float64) - frames * q
    if frames == 0:
        return Estimates(excess, excess, excess)
    # |excess - M·gap| <= Z·sd(M), squared, is a quadratic in M.
    half_slope = gap * excess + 0.5 * Z**2 * (p * (1.0 - p) - q * (1.0 - q))
    constant = excess**2 - Z**2 * frames * q * (1.0 - q)
    root = np.sqrt(np.maximum(0.0, half_slope**2 - gap**2 * constant))
    low, high = (half_slope - root) / gap**2, (half_slope + root) / gap**2
    return Estimates(excess / gap, np.clip(low, 0.0, frames), np.clip(high, 0.0, frames))


def pairs(first: Response, second: Response, counts: ArrayLike) -> Estimates:
    """Estimate in how many frames two groups had each pair of codewords.

    Args:
        first: The devices' response for the codeword of the first group.
        second: That of the second group, with independent randomness.
        counts: Responses by codeword of the first and of the second group, [k1, k2]; each frame in one cell.

    Returns:
        Estimates [k1, k2]. Their sums over a row or a column are those of `single` for the group.

    """
    table = np.asarray(counts, np.float64)
    total = float(table.sum())
    inverse = _unmix(_unmix(table, first, axis=0), second, axis=1)
    rows = np.clip(inverse.sum(axis=1, keepdims=True), 0.0, total)
    columns = np.clip(inverse.sum(axis=0, keepdims=True), 0.0, total)
    both = np.clip(inverse, 0.0, np.minimum(rows, columns))
    neither = np.maximum(0.0, total - rows - columns + both)
    hit_1, miss_1 = _second_moments(first)
    hit_2, miss_2 = _second_moments(second)
    variance = (
        both * (hit_1 * hit_2 - 1.0)
        + (rows - both) * hit_1 * miss_2
        + (columns - both) * miss_1 * hit_2
        + neither * miss_1 * miss_2
    )
    half = Z * np.sqrt(np.maximum(0.0, variance))
    return Estimates(inverse, np.clip(inverse - half, 0.0, total), np.clip(inverse + half, 0.0, total))


def _unmix(table: Floats, response: Response, *, axis: int) -> Floats:
    """The inverse of the response's matrix, applied along one axis."""
    return np.asarray((table - response.other * table.sum(axis=axis, keepdims=True)) / response.gap)


def _second_moments(response: Response) -> tuple[float, float]:
    """The mean square of one frame's contribution to a codeword's estimate, if it is true and if not."""
    p, q, gap = response.kept, response.other, response.gap
    hit = ((1.0 - q) ** 2 * p + q**2 * (1.0 - p)) / gap**2
    return hit, q * (1.0 - q) / gap**2

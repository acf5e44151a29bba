"""Bayes' rule over candidate pictures: which one it most likely was, and the picture of least expected error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Guess:
    """What an attack made of one frame's payloads. ``candidate``: index of the most likely one, ties at random.

    ``picture``: the posterior mean, float32, which has the least expected squared error for this prior.
    """

    candidate: int
    picture: NDArray[np.float32]


def guess(log_likelihood: Floats, pictures: Array, *, generator: np.random.Generator) -> Guess:
    """Every candidate was equally likely before. ``pictures``: float32 [candidates, ...]."""
    best = np.flatnonzero(log_likelihood == log_likelihood.max())
    weight = np.exp(log_likelihood - log_likelihood.max())
    weight /= weight.sum()
    seen = np.flatnonzero(weight > 1e-9 * weight.max())  # of thousands of candidates usually a handful
    mean = np.tensordot(weight[seen] / weight[seen].sum(), pictures[seen].astype(np.float64), axes=1)
    return Guess(int(generator.choice(best)), mean.astype(np.float32))

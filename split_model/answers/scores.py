"""Converts a model's scores to the displayed ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from split_model.bundle.records import Scores

Floats = NDArray[np.float64]

_STEEPEST = 700.0  # beyond, the exponential overflows


def sigmoid(values: Floats) -> Floats:
    """The sigmoid of each value, without overflow."""
    found: Floats = 1.0 / (1.0 + np.exp(-np.clip(values, -_STEEPEST, _STEEPEST)))
    return found


def as_probabilities(values: Floats, scores: Scores) -> Floats:
    """The displayed scores of values whose last axis has the classes."""
    if scores == "logits":
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        found: Floats = powers / powers.sum(axis=-1, keepdims=True)
        return found
    return sigmoid(values) if scores == "multilabel-logits" else values

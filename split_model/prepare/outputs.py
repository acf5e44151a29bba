"""Converts a model's outputs to real numbers, and measures their errors relative to their variance.

A model may have outputs of very different size: landmarks in hundreds of pixels and one logit. Errors in pixels and
in logits are added only after each was divided by the variance of its output: 0 is no error, 1 is as bad as
answering the average of all samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array
from split_model.bundle import Manifest
from split_model.features.preprocess import to_real
from split_model.interpreter import Interpreter

Floats = NDArray[np.float64]

_LEAST = 1e-12  # of an output that is zero everywhere
_STEADY = 1e-9  # an output that varies by less than this part of its energy counts as constant


def real_outputs(interpreter: Interpreter, tensors: Sequence[Array]) -> list[Floats]:
    """Run once; returns every output in real units."""
    pairs = zip(interpreter.run(tensors), interpreter.outputs, strict=True)
    return [to_real(output, spec).astype(np.float64) for output, spec in pairs]


def squared_errors(outputs: Sequence[Floats], truth: Sequence[Floats]) -> list[float]:
    """The squared error of each output, summed over its values; missing rows count as zero."""
    return [_squared(output, was) for output, was in zip(outputs, truth, strict=True)]


def _squared(output: Floats, was: Floats) -> float:
    one, other = _alike(output, was)
    return float(np.sum((one - other) ** 2))


def _alike(one: Floats, other: Floats) -> tuple[Floats, Floats]:
    """Pad both with zeros to equal sides, as the size of an output may depend on the data."""
    if one.shape == other.shape:
        return one, other
    shape = tuple(map(max, one.shape, other.shape))
    return filled(one, shape), filled(other, shape)


def filled(array: Array, shape: Sequence[int]) -> Array:
    """Pad an array with zeros to ``shape``."""
    if array.shape == tuple(shape):
        return array
    return np.pad(array, [(0, most - side) for side, most in zip(array.shape, shape, strict=True)])


def output_weights(manifest: Manifest) -> tuple[float, ...]:
    """Weights of the outputs by the answer schema, or equal ones; only of outputs read as an answer."""
    if manifest.answer is not None:
        return tuple(float(at == manifest.answer.output) for at in range(len(manifest.outputs)))
    if manifest.reading is not None:
        return tuple(float(at in manifest.reading.outputs) for at in range(len(manifest.outputs)))
    if manifest.answer_schema:
        return tuple(entry.weight for entry in manifest.answer_schema)
    return (1.0,) * len(manifest.outputs)


class Spread:
    """The variance of each output; `add` every sample's outputs, then read it. ``weights``: `output_weights`."""

    def __init__(self, weights: Sequence[float] | None = None) -> None:
        self._weights = weights
        self._samples = 0
        self._means: list[Floats] = []
        self._deviations: list[float] = []
        self._energies: list[float] = []

    def add(self, outputs: Sequence[Floats]) -> None:
        """Add a sample (Welford's update, which avoids cancellation)."""
        if not self._means:
            self._means = [np.zeros_like(output) for output in outputs]
            self._deviations = [0.0] * len(outputs)
            self._energies = [0.0] * len(outputs)
        self._samples += 1
        for at, output in enumerate(outputs):
            value, mean = _alike(output, self._means[at])
            before = value - mean
            self._means[at] = mean + before / self._samples
            self._deviations[at] += float(np.sum(before * (value - self._means[at])))
            self._energies[at] += float(np.sum(output**2))

    @property
    def scales(self) -> list[float]:
        """The variance of each output, summed over its values; for a constant output its mean energy."""
        return [
            max(deviation if deviation > _STEADY * energy else energy, _LEAST) / self._samples
            for deviation, energy in zip(self._deviations, self._energies, strict=True)
        ]

    @property
    def shares(self) -> list[float]:
        """The factor of each output's squared error: weight over scale; predicting the mean has error 1."""
        weights = self._weights or [1.0] * len(self._means)
        total = math.fsum(weights)
        return [weight / total / scale for weight, scale in zip(weights, self.scales, strict=True)]

    def error(self, squared: Sequence[float]) -> float:
        """The weighted sum of the outputs' squared errors."""
        return math.fsum(one * share for one, share in zip(squared, self.shares, strict=True))

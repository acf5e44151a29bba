"""A model's outputs as real numbers, and how wrong they are, in units of how much they vary among samples.

A model may have outputs of very different size: landmarks in hundreds of pixels beside one logit. An error in
pixels and one in logits are added up only after each was divided by the variance of its output: 0 is no error, 1
is as bad as answering the average of all samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model.features.preprocess import to_real
from split_model.interpreter import Interpreter

Array = NDArray[Any]
Floats = NDArray[np.float64]

_LEAST = 1e-12  # of an output that is zero everywhere
_STEADY = 1e-9  # an output that varies by less than this part of its energy is taken as constant


def real_outputs(interpreter: Interpreter, tensors: Sequence[Array]) -> list[Floats]:
    """Run once; every output in real units."""
    pairs = zip(interpreter.run(tensors), interpreter.outputs, strict=True)
    return [to_real(output, spec).astype(np.float64) for output, spec in pairs]


def squared_errors(outputs: Sequence[Floats], truth: Sequence[Floats]) -> list[float]:
    """Per output, the sum over its values of the squared error."""
    return [float(np.sum((output - was) ** 2)) for output, was in zip(outputs, truth, strict=True)]


class Spread:
    """How much each output varies; `add` every sample's outputs, then ask."""

    def __init__(self) -> None:
        self._samples = 0
        self._means: list[Floats] = []
        self._deviations: list[float] = []
        self._energies: list[float] = []

    def add(self, outputs: Sequence[Floats]) -> None:
        """One more sample (Welford's update, which does not cancel)."""
        if not self._means:
            self._means = [np.zeros_like(output) for output in outputs]
            self._deviations = [0.0] * len(outputs)
            self._energies = [0.0] * len(outputs)
        self._samples += 1
        for at, output in enumerate(outputs):
            before = output - self._means[at]
            self._means[at] = self._means[at] + before / self._samples
            self._deviations[at] += float(np.sum(before * (output - self._means[at])))
            self._energies[at] += float(np.sum(output**2))

    @property
    def scales(self) -> list[float]:
        """Per output, the variance summed over its values; where it does not vary, its mean energy."""
        return [
            max(deviation if deviation > _STEADY * energy else energy, _LEAST) / self._samples
            for deviation, energy in zip(self._deviations, self._energies, strict=True)
        ]

    def error(self, squared: Sequence[float]) -> float:
        """The mean over the outputs of their squared errors in these units."""
        return math.fsum(one / scale for one, scale in zip(squared, self.scales, strict=True)) / len(squared)

"""How probable a payload is for each of many candidate frames: the exact likelihood of a release.

An attacker who knows the mechanism can do no better than this and Bayes' rule, for the candidates he has. What
does not depend on the candidate is left out, so only differences between candidates mean anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array
from split_model.errors import BadInputError
from split_model.privacy import NoisePlan
from split_model.privacy.codebook import CodebookPlan, codeword_bytes
from split_model.privacy.codebook_file import Encoder
from split_model.privacy.layout import lay_out
from split_model.privacy.packing import unpack
from split_model.privacy.plan import QUANTISED
from split_model.privacy.release import channel_numbers

Floats = NDArray[np.float64]


class Likelihood(Protocol):
    """Of one mechanism at one cut, for candidates that were given as features."""

    def __call__(self, payloads: Sequence[Array]) -> Floats:
        """The log-likelihood of these payloads together, each of the same frame: float64 [candidates]."""


class NoiseLikelihood:
    """Of the noise release. ``candidates``: the features of each candidate frame, tensor after tensor.

    A value that was t on the grid arrives as y with P ∝ exp(-a·abs(y - t)), a = ε_c/L_c. That holds at the rims of
    the wire too: all noise beyond a rim adds up to exp(-a·d)/(1 + exp(-a)) for a rim d steps away, in which the
    candidate is still only in exp(-a·d). So a payload's log-likelihood is -Σ a_v·abs(y_v - t_v).
    """

    def __init__(self, plan: NoisePlan, candidates: Sequence[Sequence[Array]]) -> None:
        self._plan = plan
        self._grid = np.stack([on_grid(plan, features) for features in candidates])
        rates = [
            layout.tiled([plan.classes[at].epsilon / plan.classes[at].steps for at in classes], np.float64)
            for layout, classes in zip(lay_out(plan.tensors), plan.class_of, strict=True)
        ]
        self._rate = np.concatenate(
            [np.resize(row, layout.size) for row, layout in zip(rates, lay_out(plan.tensors), strict=True)]
        )

    def __call__(self, payloads: Sequence[Array]) -> Floats:
        """See `Likelihood`. All payloads go into one table of [values, grid], so more of them cost little more."""
        values = np.arange(self._plan.classes[0].wire_max + 1, dtype=np.int16)
        cost = np.zeros((self._plan.values, len(values)), np.float32)
        for payload in payloads:
            wire = unpack(np.frombuffer(payload, np.uint8), self._plan.values, self._plan.spec.bits)
            cost += np.abs(values - wire[:, None].astype(np.int16))
        cost *= self._rate[:, None]
        flat = cost.reshape(-1)
        first = np.arange(self._plan.values) * len(values)
        return np.array([-float(flat[first + row].sum(dtype=np.float64)) for row in self._grid])


def on_grid(plan: NoisePlan, features: Sequence[Array]) -> NDArray[np.uint8]:
    """What the device adds its noise to: the integers of the features on the wire's scale, uint8 [values]."""
    found = []
    for at, (feature, layout) in enumerate(zip(features, lay_out(plan.tensors), strict=True)):
        low, width, steps, tail = channel_numbers(plan, at)
        tensor = plan.tensors[at]
        real = feature.astype(np.float64)
        if tensor.dtype in QUANTISED:
            real = (real - tensor.zero_point) * tensor.scale
        scale = np.divide(steps, width, out=np.zeros_like(width), where=width > 0)
        cells = np.clip(np.rint((real - low) * scale), 0, steps) + tail
        if cells.size != layout.size:
            raise BadInputError(f"tensor {tensor.name!r} has {layout.size} values, the candidate {cells.size}")
        found.append(cells.astype(np.uint8).reshape(-1))
    return np.concatenate(found)


class CodebookLikelihood:
    """Of the codebook release: a codeword is kept with e^ε/(e^ε + M - 1), any other comes with 1/(e^ε + M - 1)."""

    def __init__(self, plan: CodebookPlan, encoder: Encoder, candidates: Sequence[Sequence[Array]]) -> None:
        self._plan = plan
        self._codewords = np.array([encoder(features) for features in candidates])

    def __call__(self, payloads: Sequence[Array]) -> Floats:
        """See `Likelihood`."""
        dtype = np.dtype(f"<u{codeword_bytes(self._plan.spec.codewords)}")
        total = np.zeros(len(self._codewords))
        for payload in payloads:
            sent = np.frombuffer(payload, dtype)
            total += self._plan.spec.group_epsilon * (self._codewords == sent).sum(axis=1)
        return total


def identification_bound(whole_input_epsilon: float, candidates: int) -> float:
    """The highest probability of finding the frame among equally likely candidates, under pure ε.

    Let m(y) = max_j P(y|j). Every P(y|j) ≥ e^-ε·m(y), so 1·N = Σ_y Σ_j P(y|j) ≥ (1 + (N - 1)·e^-ε)·Σ_y m(y), and
    P(right) = Σ_y m(y)/N ≤ e^ε/(e^ε + N - 1). Randomised response over the candidates themselves reaches it.
    """
    return 1.0 / (1.0 + (candidates - 1) * math.exp(-whole_input_epsilon))

"""The best classes of one output, with their labels and scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from split_model.arrays import Array
from split_model.bundle.manifest import TensorSpec, TopK

#: Up to this many best classes are found faster one by one than by sorting.
_FEW = 16
#: Exponentials of logits up to this one, either way, fit float32, and so does the sum of any number of them.
_NO_SHIFT = 60.0


def class_fields(
    outputs: Sequence[Array], specs: Sequence[TensorSpec], schema: TopK, labels: Sequence[str]
) -> dict[str, Any]:
    """Make the answer's fields by the schema: ``top`` with class, label and score.

    Scores are probabilities: real values of quantised outputs; of logits the softmax, or the sigmoid of each if
    classes do not exclude each other. Scores declared as ``values`` are not changed.
    """
    values, spec = outputs[schema.output].reshape(-1), specs[schema.output]
    if spec.dtype != "float32":
        values = values.astype(np.float64)
    best, scores = best_of(values, schema.k)
    if spec.scale:  # the best classes are the same in stored units; only a softmax needs the others
        scores = [spec.scale * (score - spec.zero_point) for score in scores]
    if schema.scores == "logits":
        real = spec.scale * (values - spec.zero_point) if spec.scale else values
        scores = _probabilities(real, scores)
    elif schema.scores == "multilabel-logits":
        scores = [_sigmoid(score) for score in scores]
    return {
        "top": [
            {"class": i, "label": labels[i] if i < len(labels) else str(i), "score": round(score, 4)}
            for i, score in zip(best, scores, strict=True)
        ]
    }


def best_of(values: Array, k: int) -> tuple[list[int], list[float]]:
    """Indices and values of the ``k`` highest of float [n], highest first, of equal ones the first; NaN comes last.

    A few are found one by one: after an inference most NumPy calls take tens of µs, and sorting is the slowest.
    """
    best: list[int] = []
    scores: list[float] = []
    left = values.copy()
    argmax, item = left.argmax, left.item
    for _ in range(min(k, values.size)):
        i = int(argmax())
        score = item(i)
        if k > _FEW or not score > -math.inf:  # NaN, which argmax takes as the highest, or only infinities
            best = np.argsort(-values, kind="stable")[:k].tolist()
            return best, values[best].tolist()
        best.append(i)
        scores.append(score)
        left[i] = -math.inf
    return best, scores


def _probabilities(logits: Array, best: list[float]) -> list[float]:
    """The softmax over all logits, at the best ones; NaN (null in JSON) if an output is not finite."""
    if not best:  # an output without elements
        return []
    highest = best[0]
    if not math.isfinite(highest):
        return [math.nan] * len(best)
    # After an inference each first NumPy call of a kind is slow, so logits are shifted only if necessary.
    shift = 0.0 if abs(highest) <= _NO_SHIFT else highest
    powers = np.exp(logits - shift if shift else logits)
    total = float(np.add.reduce(powers))
    return [math.exp(value - shift) / total for value in best]


def _sigmoid(logit: float) -> float:
    """The sigmoid without overflow; NaN stays NaN."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    power = math.exp(logit)
    return power / (1 + power)

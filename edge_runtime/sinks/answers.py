"""A model's raw outputs as people read them: the ``k`` best classes with their names, or the values themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model.bundle import TensorSpec, TopK

Array = NDArray[Any]

#: Outputs of more values than this are not written into a record; declare an answer schema instead.
_MAX_VALUES = 1000


def answer_fields(
    outputs: Sequence[Array], specs: Sequence[TensorSpec], schema: TopK | None, labels: Sequence[str]
) -> dict[str, Any]:
    """The answer as the schema reads it: ``top`` with class, label and score, or the raw ``outputs``.

    Scores are probabilities: of quantised outputs in real units, of logits after a softmax.
    """
    if schema is None:
        return {"outputs": [_raw(tensor) for tensor in outputs]}
    scores = np.asarray(outputs[schema.output], np.float64).reshape(-1)
    spec = specs[schema.output]
    if spec.scale:
        scores = spec.scale * (scores - spec.zero_point)
    if schema.scores == "logits":
        with np.errstate(invalid="ignore"):  # a model that answers infinities gets no scores, in JSON null
            scores = np.exp(scores - scores.max())
            scores /= scores.sum()
    best = np.argsort(-scores, kind="stable")[: schema.k]
    return {
        "top": [
            {
                "class": int(i),
                "label": labels[i] if i < len(labels) else str(i),
                "score": round(float(scores[i]), 4),
            }
            for i in best
        ]
    }


def _raw(tensor: Array) -> dict[str, Any]:
    record: dict[str, Any] = {"dtype": tensor.dtype.name, "shape": list(tensor.shape)}
    if tensor.size <= _MAX_VALUES:
        record["values"] = tensor.reshape(-1).tolist()
    return record

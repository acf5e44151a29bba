"""The JSON records of each step: how a frame ended, and where the split point moved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.loop.results import Step
from edge_runtime.planner.prediction import Conditions
from split_model.bundle import Bundle, TensorSpec, TopK
from split_model.features.data import read_labels

Array = NDArray[Any]

#: Outputs of more values than this are not written into a record; declare an answer schema instead.
_MAX_VALUES = 1000
#: The exponential of a logit up to this one overflows no float32, even summed over all classes.
_SMALL_LOGIT = 60.0
#: Up to this many best classes are found faster one by one than by sorting.
_FEW = 16


def labels_of(bundle: Bundle) -> tuple[str, ...]:
    """The names of the classes, none where the bundle has none."""
    schema = bundle.manifest.answer
    return read_labels(bundle.path(schema.labels)) if schema is not None and schema.labels is not None else ()


class Records:
    """Makes the JSON records: one ``frame`` each, and a ``decision`` where the split point moved."""

    def __init__(self, bundle: Bundle) -> None:
        self._labels = labels_of(bundle)
        self._outputs, self._schema = bundle.manifest.outputs, bundle.manifest.answer

    def of(self, step: Step) -> list[dict[str, Any]]:
        """The records of one step; the frame's is the last."""
        records = []
        if step.decision.moved:
            records.append(self._decision(step))
        records.append(self._frame(step))
        return records

    def _frame(self, step: Step) -> dict[str, Any]:
        result, estimate = step.result, step.view.estimate
        rate = estimate.uplink_bytes_s
        record: dict[str, Any] = {
            "kind": "frame",
            "index": result.frame.index,
            "name": result.frame.name,
            "source": result.frame.source,
            "captured_s": result.frame.captured_s,
            "split": result.split,
            "outcome": result.outcome,
            "latency_s": result.latency_s,
            "payload_bytes": result.payload_bytes,
            "uplink_mbit_s": None if rate is None else rate * 8e-6,
            "rtt_s": estimate.rtt_s,
            "load": step.load,
            "cpu_load": step.cpu_load,
            "hedged": result.hedged,
            **result.parts,
        }
        if result.error:
            record["error"] = result.error
        else:
            record |= answer_fields(result.outputs, self._outputs, self._schema, self._labels)
        return record

    def _decision(self, step: Step) -> dict[str, Any]:
        decision = step.decision
        return {
            "kind": "decision",
            "at_s": step.result.frame.captured_s,
            "from": decision.moved_from,
            "to": decision.split,
            "why": decision.why,
            "saw": None if decision.seen is None else _seen(decision.seen),
            "predicted_s": {str(p.split): _rounded(p.total_s) for p in decision.predictions},
            "hedge": decision.hedge,
            "p_local_first": {str(p.split): _rounded(p.doubt) for p in decision.predictions},
        }


def _seen(conditions: Conditions) -> dict[str, Any]:
    """What a decision was made from."""
    link = conditions.link
    rate = link.uplink_bytes_s
    return {
        "link_up": conditions.link_up,
        "uplink_mbit_s": None if rate is None else _rounded(rate * 8e-6),
        "uplink_spread": _rounded(link.rate_spread),
        "rtt_s": None if link.rtt_s is None else _rounded(link.rtt_s),
        "age_s": _rounded(link.age_s),
        "silent_s": _rounded(link.silent_s),
        "queue_s": _rounded(conditions.queue_s),
        "load": _rounded(conditions.load),
        "local_wait_s": _rounded(conditions.local_wait_s),
        "next_frame_s": _rounded(conditions.next_frame_s),
    }


def _rounded(value: float) -> float | None:
    """For JSON, which has no infinity."""
    return round(value, 4) if math.isfinite(value) else None


def answer_fields(
    outputs: Sequence[Array], specs: Sequence[TensorSpec], schema: TopK | None, labels: Sequence[str]
) -> dict[str, Any]:
    """The answer as the schema reads it: ``top`` with class, label and score, or the raw ``outputs``.

    Scores are probabilities: of quantised outputs in real units, of logits after a softmax, or a sigmoid of each
    where classes do not exclude each other. Those declared as ``values`` are shown as they are.
    """
    if schema is None:
        return {"outputs": [_raw(tensor) for tensor in outputs]}
    stored, spec = outputs[schema.output].ravel(), specs[schema.output]
    if spec.scale:
        stored = spec.scale * (stored.astype(np.float64) - spec.zero_point)
    elif spec.dtype != "float32":
        stored = stored.astype(np.float64)
    best, scores = best_of(stored, schema.k)
    if schema.scores == "logits":
        scores = _probabilities(stored, scores)
    elif schema.scores == "multilabel-logits":
        scores = [_sigmoid(score) for score in scores]
    known = len(labels)
    return {
        "top": [
            {"class": i, "label": labels[i] if i < known else str(i), "score": round(score, 4)}
            for i, score in zip(best, scores, strict=True)
        ]
    }


def best_of(values: Array, k: int) -> tuple[list[int], list[float]]:
    """Indices and values of the ``k`` highest of float [n], highest first, of equal ones the first; NaN comes last.

    Few are found one by one: after an inference each other call into NumPy takes tens of µs, and sorting longest.
    """
    best: list[int] = []
    scores: list[float] = []
    left = values.copy()
    while len(best) < min(k, values.size):
        i = int(left.argmax())
        score = float(left[i])
        if k > _FEW or not score > -math.inf:  # NaN, which argmax takes for the highest, or nothing but infinity
            best = np.argsort(-values, kind="stable")[:k].tolist()
            return best, values[best].tolist()
        best.append(i)
        scores.append(score)
        left[i] = -math.inf
    return best, scores


def _probabilities(logits: Array, best: list[float]) -> list[float]:
    """The softmax of the best logits, over all; NaN (null in JSON) where an output is not finite."""
    if not best:  # a model that found nothing
        return []
    highest = best[0]
    if not math.isfinite(highest):
        return [math.nan] * len(best)
    # After an inference each call into NumPy takes tens of µs: `np.add.reduce` is `sum` without its Python code.
    offset = 0.0 if abs(highest) < _SMALL_LOGIT else highest
    total = float(np.add.reduce(np.exp(logits - offset if offset else logits)))
    return [math.exp(value - offset) / total for value in best]


def _sigmoid(logit: float) -> float:
    """Without overflow; NaN stays NaN."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    power = math.exp(logit)
    return power / (1 + power)


def _raw(tensor: Array) -> dict[str, Any]:
    record: dict[str, Any] = {"dtype": tensor.dtype.name, "shape": list(tensor.shape)}
    if tensor.size <= _MAX_VALUES:
        record["values"] = tensor.reshape(-1).tolist()
    return record

"""Decodes a detector's outputs of any layout to boxes, with score threshold and suppression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from split_model.answers.boxes import corners, suppressed
from split_model.answers.scores import as_probabilities
from split_model.bundle.readings import Detections

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Maximum number of best boxes that are compared with each other, so that the time is bounded.
_CANDIDATES = 1000
_ROW_OF_ONE_CLASS = 5


@dataclass(frozen=True, slots=True)
class Found:
    """Boxes [n, 4] as x0, y0, x1, y1 in pixels of the model's input, their scores and classes, best first."""

    boxes: Floats
    scores: Floats
    classes: Integers


def detections(
    reading: Detections, outputs: Sequence[Floats], size: tuple[int, int], anchors: Floats | None = None
) -> Found:
    """Read a detector's outputs.

    Args:
        reading: The layout of the outputs.
        outputs: All outputs of the model in real units.
        size: Height and width of the model's input in pixels.
        anchors: Of the layout ``ssd``.

    """
    parts = [outputs[at] for at in reading.outputs]
    boxes, scores, classes = _LAYOUTS[reading.layout](reading, parts, anchors)
    usable = (scores >= reading.threshold) & np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    chosen = np.flatnonzero(usable)
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")[:_CANDIDATES]]
    boxes, scores, classes = corners(boxes[chosen], reading.order), scores[chosen], classes[chosen]
    if reading.unit == "fraction":
        boxes = boxes * np.array([size[1], size[0]] * 2, np.float64)
    groups = np.zeros_like(classes) if reading.suppress == "all" else classes
    if reading.suppress == "none":
        kept = np.arange(min(len(scores), reading.most))
    else:
        kept = suppressed(boxes, scores, groups, iou=reading.iou, most=reading.most)
    return Found(boxes[kept], scores[kept], classes[kept])


#: Boxes in the order of the reading, scores, and classes.
_Parts = tuple[Floats, Floats, Integers]


def _postprocess(_reading: Detections, parts: Sequence[Floats], _anchors: Floats | None) -> _Parts:
    boxes, classes, scores = parts[0].reshape(-1, 4), parts[1].reshape(-1), parts[2].reshape(-1)
    count = len(scores)
    if len(parts) > 3 and np.isfinite(parts[3]).all():
        count = min(count, max(0, round(float(parts[3].reshape(-1)[0]))))
    count = min(count, len(boxes), len(classes))
    whole = np.nan_to_num(np.rint(classes[:count]), nan=-1.0, posinf=-1.0, neginf=-1.0).astype(np.int64)
    known = whole >= 0
    return boxes[:count][known], scores[:count][known], whole[known]


def _ssd(reading: Detections, parts: Sequence[Floats], anchors: Floats | None) -> _Parts:
    assert anchors is not None  # guaranteed by the manifest's check
    offsets = parts[0].reshape(-1, parts[0].shape[-1])[:, :4] / np.asarray(reading.scales)
    places = anchors if reading.order.startswith("y") else anchors[:, [1, 0, 3, 2]]
    centres = offsets[:, :2] * places[:, 2:] + places[:, :2]
    with np.errstate(over="ignore"):
        stretch = np.exp(offsets[:, 2:]) if reading.sizes == "exp" else offsets[:, 2:]
        boxes = np.concatenate([centres, stretch * places[:, 2:]], axis=1)
    scores, classes = _best(reading, parts[1].reshape(len(boxes), -1))
    return boxes, scores, classes


def _yolov5(reading: Detections, parts: Sequence[Floats], _anchors: Floats | None) -> _Parts:
    rows = parts[0].reshape(-1, parts[0].shape[-1])
    values = rows[:, 4:]
    if reading.scores in ("logits", "multilabel-logits"):
        values = as_probabilities(values, "multilabel-logits")
    classes = values[:, 1:].argmax(axis=1)
    return rows[:, :4], values[:, 0] * values[:, 1:].max(axis=1), classes


def _yolov8(reading: Detections, parts: Sequence[Floats], _anchors: Floats | None) -> _Parts:
    shape = parts[0].shape
    rows = parts[0].reshape(shape[-2], shape[-1])
    if shape[-2] < shape[-1]:
        rows = rows.T
    scores, classes = _best(reading, rows[:, 4:])
    return rows[:, :4], scores, classes


def _rows(_reading: Detections, parts: Sequence[Floats], _anchors: Floats | None) -> _Parts:
    rows = parts[0].reshape(-1, parts[0].shape[-1])
    rows = rows[np.isfinite(rows).all(axis=1)]
    if rows.shape[1] == _ROW_OF_ONE_CLASS:
        return rows[:, :4], rows[:, 4], np.zeros(len(rows), np.int64)
    known = rows[rows[:, 5] >= 0]
    return known[:, :4], known[:, 4], np.rint(known[:, 5]).astype(np.int64)


def _best(reading: Detections, values: Floats) -> tuple[Floats, Integers]:
    """The best class of each box and its score."""
    scores = as_probabilities(values, reading.scores)
    if reading.background:
        scores = scores[:, 1:]
    return scores.max(axis=1), scores.argmax(axis=1)


_LAYOUTS = {"postprocess": _postprocess, "ssd": _ssd, "yolov5": _yolov5, "yolov8": _yolov8, "rows": _rows}

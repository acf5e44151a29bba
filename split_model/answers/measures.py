"""Measures of how similar two answers are, by kind: boxes, landmarks, maps, vectors.

`agreement` is a share for every kind: 1 is the same answer, 0 a different one. `Figures` computes the usual measure
of the kind over a data set.

=============  =======================================================  ==========================================
kind           agreement of one answer                                  figure of a data set
=============  =======================================================  ==========================================
detections     F1 of boxes that match: same class, IoU of 0.5           ``mAP50``, the other's boxes as the truth
landmarks      points within a twentieth of the input's longer side     ``pixels``: mean distance, in the input
map            intersection over union, mean over the truth's classes   ``IoU``, the same
vector         cosine, 0 where it is negative                           ``cosine``
=============  =======================================================  ==========================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from split_model.answers.boxes import overlap
from split_model.answers.class_map import Codes
from split_model.answers.detections import Found
from split_model.answers.landmarks import Points
from split_model.answers.reader import Answered, input_size
from split_model.bundle import Manifest
from split_model.bundle.readings import ClassMap, Detections, Landmarks

Floats = NDArray[np.float64]
Measure: TypeAlias = Literal["mAP50", "pixels", "IoU", "cosine"]

#: The definition of `agreement` as text, by the measure of the kind.
AGREEMENTS: dict[Measure, str] = {
    "mAP50": "F1 of boxes that match the unsplit model's",
    "pixels": "share of points within 5 % of the input's longer side",
    "IoU": "intersection over union, mean over the unsplit map's classes",
    "cosine": "cosine to the unsplit model's vector",
}
_IOU = 0.5
_NEAR = 0.05
_RESAMPLES = 500


def measure_of(manifest: Manifest) -> Measure | None:
    """The name of the measure for a bundle's answers; None for classes and raw outputs."""
    kinds: tuple[tuple[type, Measure], ...] = ((Detections, "mAP50"), (Landmarks, "pixels"), (ClassMap, "IoU"))
    if manifest.reading is None:
        return None
    return next((name for kind, name in kinds if isinstance(manifest.reading, kind)), "cosine")


def agreement(found: Answered, truth: Answered, manifest: Manifest) -> float:
    """The agreement of two answers of the same bundle, 0 to 1; see the module."""
    if isinstance(found, Found) and isinstance(truth, Found):
        total = len(found.scores) + len(truth.scores)
        return 2 * float(_matches(found, truth).sum()) / total if total else 1.0
    if isinstance(found, Points) and isinstance(truth, Points):
        near = _NEAR * max(input_size(manifest))
        return float((_distances(found, truth) <= near).mean())
    if isinstance(manifest.reading, ClassMap):
        return _mean_iou(found, truth)  # type: ignore[arg-type]  # as the reading has it
    return max(0.0, _cosine(found, truth))  # type: ignore[arg-type]


def _matches(found: Found, truth: Found) -> NDArray[np.bool_]:
    """For each found box, best first, whether it is the first that matches a true box."""
    free = np.ones(len(truth.scores), bool)
    hits = np.zeros(len(found.scores), bool)
    for at in range(len(found.scores)):
        shares = np.where(free & (truth.classes == found.classes[at]), overlap(found.boxes[at], truth.boxes), 0.0)
        if shares.size and shares.max() >= _IOU:
            free[int(shares.argmax())] = False
            hits[at] = True
    return hits


def _distances(found: Points, truth: Points) -> Floats:
    away: Floats = np.linalg.norm(found.xy - truth.xy, axis=1)
    return away


def _mean_iou(found: Codes, truth: Codes) -> float:
    shares = []
    for code in np.unique(truth):  # a class of the other answer alone counts through the places that it takes
        one, other = found == code, truth == code
        shares.append((one & other).sum() / (one | other).sum())
    return float(np.mean(shares))


def _cosine(found: Floats, truth: Floats) -> float:
    lengths = float(np.linalg.norm(found) * np.linalg.norm(truth))
    return float(found @ truth) / lengths if lengths > 0 else float(np.array_equal(found, truth))


class Figures:
    """The measure of a bundle's kind of answer over a data set; `add` every sample, then read it."""

    def __init__(self, manifest: Manifest, measure: Measure) -> None:
        self._manifest = manifest
        self._measure = measure
        self._values: list[float] = []
        self._pictures = 0
        self._found: list[tuple[int, float, int, bool]] = []  # picture, score, class, whether it matches
        self._truth: list[tuple[int, int]] = []  # picture, class

    def add(self, found: Sequence[Answered], truth: Answered) -> None:
        """Add a sample: the answers of all its draws, and the true answer."""
        if self._measure != "mAP50":
            self._values.append(float(np.mean([self._value(one, truth) for one in found])))
            return
        assert isinstance(truth, Found)
        for one in found:
            assert isinstance(one, Found)
            rows = zip(one.scores.tolist(), one.classes.tolist(), _matches(one, truth).tolist(), strict=True)
            self._found += [(self._pictures, *row) for row in rows]
            self._truth += [(self._pictures, kind) for kind in truth.classes.tolist()]
        self._pictures += 1

    def _value(self, found: Answered, truth: Answered) -> float:
        if isinstance(found, Points) and isinstance(truth, Points):
            return float(_distances(found, truth).mean())
        if self._measure == "cosine":
            return _cosine(found, truth)  # type: ignore[arg-type]
        return agreement(found, truth, self._manifest)

    def mean(self) -> tuple[float, float, float, int]:
        """The figure, its 95 % interval over resampled samples, and the number of samples."""
        count = self._pictures if self._measure == "mAP50" else len(self._values)
        picked = np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))
        weights = np.stack([np.bincount(row, minlength=count) for row in picked])
        weights = np.concatenate([np.ones((1, count), np.int64), weights])
        if self._measure == "mAP50":
            all_of_them = self._mean_precision(weights)
        else:
            all_of_them = weights @ np.array(self._values) / count
        low, high = np.quantile(all_of_them[1:], [0.025, 0.975])
        value = float(all_of_them[0])
        return value, min(float(low), value), max(float(high), value), count

    def _mean_precision(self, weights: NDArray[np.int64]) -> Floats:
        """Mean average precision at an IoU of 0.5, for each row of weights of the pictures."""
        kinds = sorted({kind for _, kind in self._truth})
        if not kinds:  # there are no true boxes: nothing should be found
            wrong = np.array([picture for picture, *_ in self._found], np.int64)
            return np.asarray(weights[:, wrong].sum(axis=1) == 0, np.float64)
        total = np.zeros(len(weights))
        there = np.zeros(len(weights))
        for kind in kinds:
            wanted = weights[:, [picture for picture, one in self._truth if one == kind]].sum(axis=1)
            rows = sorted((row for row in self._found if row[2] == kind), key=lambda row: -row[1])
            precision = _average_precision(weights, rows, wanted)
            total += np.where(wanted > 0, precision, 0.0)
            there += wanted > 0
        found: Floats = np.divide(total, there, out=np.zeros_like(total), where=there > 0)
        return found


def _average_precision(
    weights: NDArray[np.int64], rows: Sequence[tuple[int, float, int, bool]], wanted: NDArray[np.int64]
) -> Floats:
    """The area under precision over recall; each precision is the best one at this recall or higher."""
    if not rows:
        return np.zeros(len(weights))
    counts = weights[:, [picture for picture, *_ in rows]].astype(np.float64)
    hits = np.cumsum(counts * np.array([row[3] for row in rows]), axis=1)
    precision = hits / np.maximum(np.cumsum(counts, axis=1), 1e-12)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = hits / np.maximum(wanted, 1)[:, None]
    found: Floats = (np.diff(recall, axis=1, prepend=0.0) * precision).sum(axis=1)
    return found

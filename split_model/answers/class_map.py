"""Makes a map of classes from a model's output, and the share of the picture of each class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model.answers.scores import sigmoid
from split_model.bundle.readings import ClassMap, map_shape
from split_model.features.placement import Placement

Floats = NDArray[np.float64]
Codes = NDArray[np.uint16]

_MOST_CLASSES = 1 << 16
_HALF = 0.5


def class_map(reading: ClassMap, output: Floats) -> Codes:
    """Return the class at every place, uint16 [height, width]."""
    shape = map_shape(output.shape, reading.axis)
    assert shape is not None  # guaranteed by the manifest's check
    values: NDArray[Any]
    if reading.axis is None:
        values = np.rint(np.nan_to_num(output))
    elif output.shape[reading.axis] == 1:
        values = (sigmoid(output) if reading.scores in ("logits", "multilabel-logits") else output) >= _HALF
    else:
        values = output.argmax(axis=reading.axis)
    codes: Codes = np.clip(values, 0, _MOST_CLASSES - 1).astype(np.uint16).reshape(shape)
    return codes


def inside(placement: Placement, height: int, width: int) -> NDArray[np.bool_]:
    """Whether each place of a map [height, width] shows a part of the picture; others show a border."""
    y = (np.arange(height) + 0.5) * placement.input[0] / height
    x = (np.arange(width) + 0.5) * placement.input[1] / width
    rows = (y >= placement.origin[0]) & (y < placement.origin[0] + placement.scaled[0])
    columns = (x >= placement.origin[1]) & (x < placement.origin[1] + placement.scaled[1])
    found: NDArray[np.bool_] = rows[:, None] & columns[None, :]
    return found


def shares(codes: Codes, where: NDArray[np.bool_]) -> list[tuple[int, float]]:
    """Each present class with its share of the places in ``where``, the largest first."""
    counts = np.bincount(codes[where])
    total = max(1, int(counts.sum()))
    order = [int(code) for code in np.argsort(-counts, kind="stable") if counts[code]]
    return [(code, float(counts[code] / total)) for code in order]

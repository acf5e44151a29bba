"""Reads landmarks from a model's output: points in pixels of its input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from split_model.answers.scores import as_probabilities
from split_model.bundle.readings import Landmarks

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Points:
    """x and y [n, 2] in pixels of the model's input; ``scores`` [n] if the points have some."""

    xy: Floats
    scores: Floats | None


def landmarks(reading: Landmarks, output: Floats, size: tuple[int, int]) -> Points:
    """Read the points; ``size``: height and width of the model's input in pixels."""
    rows = output.reshape(-1, reading.values)
    xy = rows[:, :2] if reading.order == "xy" else rows[:, 1::-1]
    if reading.unit == "fraction":
        xy = xy * np.array([size[1], size[0]], np.float64)
    if reading.score is None:
        return Points(xy, None)
    return Points(xy, as_probabilities(rows[:, reading.score, None], reading.scores)[:, 0])

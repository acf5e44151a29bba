"""Checks a manifest's reading of outputs against the model's outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from split_model.bundle.readings import (
    DETECTION_OUTPUTS,
    MAX_DETECTIONS,
    MAX_POINTS,
    ClassMap,
    Detections,
    Landmarks,
    Reading,
    map_shape,
)
from split_model.errors import BadBundleError

if TYPE_CHECKING:
    from split_model.bundle.manifest import TensorSpec

_MAX_NAME = 64
_FORMS = {"yolov5": "[1, n, 5 + classes]", "yolov8": "[1, 4 + classes, n]", "rows": "[n, 5] or [n, 6]"}


def check_reading(where: str, reading: Reading, outputs: Sequence[TensorSpec]) -> None:
    """Check that a reading fits outputs of these shapes.

    Raises:
        BadBundleError: It does not; the message names the misfit.

    """
    missing = [at for at in reading.outputs if not 0 <= at < len(outputs)]
    if missing:
        raise _bad(where, f"reads output {missing[0]}, the model has outputs 0 to {len(outputs) - 1}")
    if isinstance(reading, Detections):
        _check_detections(where, reading, [outputs[at] for at in reading.outputs])
    elif isinstance(reading, Landmarks):
        _check_landmarks(where, reading, outputs[reading.output])
    elif isinstance(reading, ClassMap):
        _check_map(where, reading, outputs[reading.output])


def _check_detections(where: str, reading: Detections, outputs: Sequence[TensorSpec]) -> None:
    least, most = DETECTION_OUTPUTS[reading.layout]
    if not least <= len(outputs) <= most:
        count = f"{least} or {most}" if least < most else str(least)
        raise _bad(where, f"layout {reading.layout!r} takes {count} outputs, not {len(outputs)}")
    if not all(0 <= value <= 1 for value in (reading.threshold, reading.iou)):
        raise _bad(where, f"threshold {reading.threshold} and iou {reading.iou} must lie in 0..1")
    if not 1 <= reading.most <= MAX_DETECTIONS:
        raise _bad(where, f"most {reading.most} must lie in 1..{MAX_DETECTIONS}")
    if not all(0 < scale < math.inf for scale in reading.scales) or reading.first_label < 0:
        raise _bad(
            where, f"scales {list(reading.scales)} must be over 0, first_label {reading.first_label} 0 or more"
        )
    if (reading.anchors is None) != (reading.layout != "ssd"):
        raise _bad(where, "only the layout 'ssd' has anchors, and that layout needs anchors")
    wrong = _misfit(reading, [tuple(output.shape) for output in outputs])
    if wrong:
        raise _bad(where, f"layout {reading.layout!r}: {wrong}")


def _misfit(reading: Detections, shapes: Sequence[tuple[int, ...]]) -> str:
    """The misfit of a detector's output shapes, or empty."""
    shape = shapes[0]
    rows, told = math.prod(shape[:-1]), list(shape)
    least = 2 if reading.background else 1
    flat = len(shape) >= 2 and rows == shape[-2]
    if reading.layout in ("postprocess", "ssd"):
        if len(shape) < 2 or shape[-1] < 4 or (shape[-1] > 4 and reading.layout == "postprocess"):
            return f"boxes are [.., n, 4], the model's are {told}"
        sizes = [math.prod(one) for one in shapes[1:3]]
        fits = sizes == [rows, rows]
        if reading.layout == "ssd":
            fits = sizes[0] % rows == 0 and sizes[0] // rows >= least
        return "" if fits else f"{rows} boxes, and outputs of {[list(one) for one in shapes[1:3]]} beside them"
    fitting = {
        "yolov5": flat and shape[-1] >= 6,
        "yolov8": flat and min(shape[-2:]) >= 4 + least,
        "rows": len(shape) >= 2 and shape[-1] in (5, 6),
    }
    return "" if fitting[reading.layout] else f"an output is {_FORMS[reading.layout]}, the model's is {told}"


def _check_landmarks(where: str, reading: Landmarks, output: TensorSpec) -> None:
    if reading.values < 2 or output.size % reading.values or output.open_axes:
        raise _bad(
            where, f"output {reading.output} of {list(output.shape)} has no points of {reading.values} values"
        )
    points = output.size // reading.values
    if points > MAX_POINTS:
        raise _bad(where, f"{points} points, over {MAX_POINTS}")
    if reading.names and len(reading.names) != points:
        raise _bad(where, f"{len(reading.names)} names for {points} points")
    if not all(name.isprintable() and 1 <= len(name) <= _MAX_NAME for name in reading.names):
        raise _bad(where, f"a point's name is empty, over {_MAX_NAME} letters or has control characters")
    if reading.score is not None and not 2 <= reading.score < reading.values:
        raise _bad(where, f"score {reading.score} is not one of a point's values 2 to {reading.values - 1}")


def _check_map(where: str, reading: ClassMap, output: TensorSpec) -> None:
    shape = output.shape
    axis = reading.axis
    if axis is not None and not -len(shape) <= axis < len(shape):
        raise _bad(where, f"axis {axis} of an output of {list(shape)}")
    if output.open_axes or map_shape(shape, axis) is None:
        told = "" if axis is None else f" without its axis {axis}"
        raise _bad(where, f"output {reading.output} of {list(shape)}{told} is not a map of height and width")


def _bad(where: str, problem: str) -> BadBundleError:
    return BadBundleError(f"{where}: {problem}", remedy="prepare the bundle again")

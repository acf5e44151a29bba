"""Reads a model's raw outputs by the bundle's declaration, on the device and the workstation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from split_model.answers import anchors
from split_model.answers.class_map import Codes, class_map, inside, shares
from split_model.answers.classes import class_fields
from split_model.answers.detections import Found, detections
from split_model.answers.landmarks import Points, landmarks
from split_model.answers.png import write_png
from split_model.arrays import Array
from split_model.bundle import Bundle, Manifest
from split_model.bundle.readings import ClassMap, Detections, Landmarks
from split_model.errors import BadBundleError
from split_model.features.data import read_labels
from split_model.features.placement import Placement
from split_model.features.preprocess import to_real

Floats = NDArray[np.float64]
#: The result of reading outputs: boxes, points, a map of classes, or the values of a vector.
Answered: TypeAlias = "Found | Points | Codes | Floats"

#: Maximum number of values of a tensor in a record.
MAX_VALUES = 1000
#: Maximum number of values of a vector in a record, which has to fit into a message to a program on the board.
MAX_VECTOR = 4096
_CHANNELS = (1, 3)


def input_size(manifest: Manifest) -> tuple[int, int]:
    """Height and width of the input in pixels; 1 and 1 if it is not a picture: coordinates are fractions then."""
    if manifest.preprocess is not None:
        return manifest.preprocess.crop
    shape = manifest.inputs[0].shape
    if len(shape) == 4 and shape[3] in _CHANNELS:
        return shape[1], shape[2]
    if len(shape) == 4 and shape[1] in _CHANNELS:
        return shape[2], shape[3]
    return 1, 1


@dataclass(frozen=True)
class AnswerReader:
    """Reads one bundle's outputs. ``labels``: its class names, if it has any."""

    manifest: Manifest
    labels: tuple[str, ...] = ()
    anchors: Floats | None = None

    @classmethod
    def of(cls, bundle: Bundle) -> AnswerReader:
        """Read the labels and anchors of a bundle.

        Raises:
            SplitModelError: A file of it cannot be read.

        """
        manifest = bundle.manifest
        ref = manifest.labels
        labels = () if ref is None else read_labels(bundle.path(ref))
        reading = manifest.reading
        places = None
        if isinstance(reading, Detections) and reading.anchors is not None:
            places = anchors.read(bundle.path(reading.anchors))
            boxes = math.prod(manifest.outputs[reading.outputs[0]].shape[:-1])
            if len(places) != boxes:
                raise BadBundleError(
                    f"{bundle.path(reading.anchors)}: {len(places)} anchors for {boxes} boxes",
                    remedy="prepare the bundle again",
                )
        return cls(manifest, labels, places)

    def read(self, outputs: Sequence[Floats]) -> Answered:
        """Read boxes, points, a map or a vector from outputs in real units; in pixels of the model's input."""
        with np.errstate(all="ignore"):  # outputs may be infinite or NaN, and are reported as such
            return self._read(outputs)

    def _read(self, outputs: Sequence[Floats]) -> Answered:
        reading, size = self.manifest.reading, input_size(self.manifest)
        assert reading is not None
        if isinstance(reading, Detections):
            return detections(reading, outputs, size, self.anchors)
        if isinstance(reading, Landmarks):
            return landmarks(reading, outputs[reading.output], size)
        if isinstance(reading, ClassMap):
            return class_map(reading, outputs[reading.output])
        values = outputs[reading.output].reshape(-1)
        length = float(np.linalg.norm(values))
        return values / length if reading.normalise and length > 0 else values

    def fields(self, outputs: Sequence[Array], placement: Placement | None = None) -> dict[str, Any]:
        """Make an answer's fields for a record.

        Args:
            outputs: All outputs as the model stores them.
            placement: The picture's place in the input; without one, coordinates are the input's own pixels.

        Returns:
            ``top`` for classes; ``detections``, ``landmarks``, ``map`` or ``vector`` as in docs/sources.md; or
            ``outputs``, the
                    raw values, without those of large outputs.

        """
        manifest = self.manifest
        if manifest.answer is not None:
            return class_fields(outputs, manifest.outputs, manifest.answer, self.labels)
        if manifest.reading is None:
            return raw_fields(outputs)
        read = manifest.reading.outputs
        real = [
            to_real(output, spec).astype(np.float64) if at in read else np.empty(0)
            for at, (output, spec) in enumerate(zip(outputs, manifest.outputs, strict=True))
        ]
        return self.found_fields(self.read(real), placement)

    def found_fields(self, found: Answered, placement: Placement | None = None) -> dict[str, Any]:
        """Turn the result of `read` into the fields of `fields`."""
        place = placement or Placement.whole(*input_size(self.manifest))
        if isinstance(found, Found):
            return {"picture": list(place.picture), "detections": self._boxes(found, place)}
        if isinstance(found, Points):
            return {"picture": list(place.picture), "landmarks": self._points(found, place)}
        if isinstance(self.manifest.reading, ClassMap):
            return {"picture": list(place.picture), "map": self._map(found, place)}  # type: ignore[arg-type]
        vector: dict[str, Any] = {"size": found.size}
        if found.size <= MAX_VECTOR:
            vector["values"] = [float(f"{value:.6g}") for value in found]
        return {"vector": vector}

    def label(self, index: int) -> str:
        """The name of a class, or its number if it has none."""
        reading = self.manifest.reading
        line = index + (reading.first_label if isinstance(reading, Detections) else 0)
        return self.labels[line] if 0 <= line < len(self.labels) else str(index)

    def _boxes(self, found: Found, place: Placement) -> list[dict[str, Any]]:
        """The boxes inside the picture, clipped at its edges."""
        ends = place.to_picture(found.boxes.reshape(-1, 2, 2))
        ends = ends.clip(0, np.array(place.picture[::-1], np.float64)).reshape(-1, 4)
        told = []
        for box, score, kind in zip(ends.round(2), found.scores, found.classes, strict=True):
            if box[2] > box[0] and box[3] > box[1]:
                told.append(
                    {"class": int(kind), "label": self.label(int(kind)), "score": round(float(score), 4)}
                    | {"box": box.tolist()}
                )
        return told

    def _points(self, found: Points, place: Placement) -> list[dict[str, Any]]:
        reading = self.manifest.reading
        assert isinstance(reading, Landmarks)
        told: list[dict[str, Any]] = []
        for at, (x, y) in enumerate(place.to_picture(found.xy).round(2).tolist()):
            point: dict[str, Any] = {"name": reading.names[at]} if reading.names else {}
            point |= {"x": _finite(x), "y": _finite(y)}
            if found.scores is not None:
                point["score"] = _finite(round(float(found.scores[at]), 4))
            told.append(point)
        return told

    def _map(self, codes: Codes, place: Placement) -> dict[str, Any]:
        height, width = codes.shape
        ends = place.to_picture(np.array([[0.0, 0.0], [place.input[1], place.input[0]]]))
        return {
            "height": height,
            "width": width,
            "box": ends.round(2).reshape(-1).tolist(),
            "classes": [
                {"class": code, "label": self.label(code), "share": round(share, 4)}
                for code, share in shares(codes, inside(place, height, width))
            ],
            "png": write_png(codes),
        }


def _finite(value: float) -> float | None:
    """Replace infinities and NaN, which JSON lacks, by None."""
    return value if math.isfinite(value) else None


def raw_fields(outputs: Sequence[Array]) -> dict[str, Any]:
    """Fields of undeclared outputs: dtype, shape, and the values of small ones."""
    return {"outputs": [_raw(tensor) for tensor in outputs]}


def _raw(tensor: Array) -> dict[str, Any]:
    record: dict[str, Any] = {"dtype": tensor.dtype.name, "shape": list(tensor.shape)}
    if tensor.size <= MAX_VALUES:
        record["values"] = tensor.reshape(-1).tolist()
    return record

"""Manifest records for reading outputs as boxes, landmarks, a map, or a vector.

`split_model.answers` applies them, on the device and on the workstation.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from split_model.bundle.records import FileRef, Record, Scores

#: Maximum boxes and points of one answer: a record has to fit into a message to a program on the board.
MAX_DETECTIONS, MAX_POINTS = 100, 600
#: Layouts of a detector's outputs, with the minimum and maximum number of outputs.
DETECTION_OUTPUTS = {"postprocess": (3, 4), "ssd": (2, 2), "yolov5": (1, 1), "yolov8": (1, 1), "rows": (1, 1)}
DetectionLayout = Literal["postprocess", "ssd", "yolov5", "yolov8", "rows"]
BoxOrder = Literal["yxyx", "xyxy", "yxhw", "xywh"]
Unit = Literal["fraction", "pixels"]


class Detections(Record, frozen=True, tag_field="kind", tag="detections"):
    """Boxes with classes and scores.

    ``layout``, and the ``outputs`` that it has, in this order:
        ``postprocess``: as ``TFLite_Detection_PostProcess`` makes them: boxes, classes, scores, and their count.
        ``ssd``: offsets from ``anchors`` [N, 4 or more, of which the first 4 count], and scores [N, classes].
        ``yolov5``: [N, 4 + 1 + classes], the fifth value being that of any object.
        ``yolov8``: [4 + classes, N], or [N, 4 + classes] where N is the longer side.
        ``rows``: [N, 6] or [N, 5]: a box, its score and, if there are several, its class, as exporters that append
        NMS to a model have it.
    ``order``: of a box's values; ``yxyx`` and ``xyxy`` are two corners, ``yxhw`` and ``xywh`` centre and sides.
    ``unit``: fractions of the input, or its pixels.
    ``scores``: the kind of a class's values. ``background``: the first class means no object, and is left out.
    ``scales``: divisors of offsets, in ``order``. ``sizes``: ``exp`` or ``linear``, the scale of offsets of height
    and width. ``threshold``: minimum score. ``iou``: boxes that overlap a better one by more are removed.
    ``suppress``: those of the same
    ``class``, of ``all`` classes, or ``none``. ``most``: the maximum number of kept boxes.
    ``first_label``: the line of ``labels`` that names class 0, from 0.
    """

    layout: DetectionLayout
    outputs: tuple[int, ...]
    order: BoxOrder
    unit: Unit = "fraction"
    scores: Scores = "probabilities"
    background: bool = False
    anchors: FileRef | None = None
    scales: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    sizes: Literal["exp", "linear"] = "exp"
    threshold: float = 0.4
    iou: float = 0.5
    suppress: Literal["class", "all", "none"] = "class"
    most: int = 25
    labels: FileRef | None = None
    first_label: int = 0

    def files(self) -> tuple[FileRef, ...]:
        """The files of the bundle that belong to it."""
        return tuple(ref for ref in (self.anchors, self.labels) if ref is not None)


class Landmarks(Record, frozen=True, tag_field="kind", tag="landmarks"):
    """Points: ``output`` has ``values`` numbers for each; ``order`` names the first two.

    ``score``: the position of the point's score among them, if there is one; ``scores``: its kind. ``names``: of
    all the points, or none.
    """

    output: int
    values: int
    order: Literal["xy", "yx"] = "xy"
    unit: Unit = "pixels"
    score: int | None = None
    scores: Scores = "values"
    names: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[int, ...]:
        """The outputs that are read."""
        return (self.output,)

    def files(self) -> tuple[FileRef, ...]:
        """The files of the bundle that belong to it."""
        return ()


class ClassMap(Record, frozen=True, tag_field="kind", tag="map"):
    """A class for every place: the largest value along ``axis`` of ``output``.

    ``axis`` None: the values are class numbers. An axis of one value is a mask: ``scores`` is the kind of the
    value, and half or more is class 1.
    """

    output: int
    axis: int | None
    scores: Scores = "logits"
    labels: FileRef | None = None

    @property
    def outputs(self) -> tuple[int, ...]:
        """The outputs that are read."""
        return (self.output,)

    def files(self) -> tuple[FileRef, ...]:
        """The files of the bundle that belong to it."""
        return () if self.labels is None else (self.labels,)


class Vector(Record, frozen=True, tag_field="kind", tag="vector"):
    """The values of ``output``; ``normalise``: divided by their length."""

    output: int
    normalise: bool = False

    @property
    def outputs(self) -> tuple[int, ...]:
        """The outputs that are read."""
        return (self.output,)

    def files(self) -> tuple[FileRef, ...]:
        """The files of the bundle that belong to it."""
        return ()


Reading: TypeAlias = Detections | Landmarks | ClassMap | Vector

#: Maximum side of a map.
_MAX_SIDE = 1 << 14


def map_shape(shape: tuple[int, ...], axis: int | None) -> tuple[int, int] | None:
    """Height and width of the map in an output of this shape, with classes along ``axis``; None: no map."""
    sides = [side for at, side in enumerate(shape) if axis is None or at != axis % len(shape)]
    while len(sides) > 2 and sides[0] == 1:
        del sides[0]
    while len(sides) > 2 and sides[-1] == 1:
        del sides[-1]
    return (sides[0], sides[1]) if len(sides) == 2 and max(sides) <= _MAX_SIDE else None

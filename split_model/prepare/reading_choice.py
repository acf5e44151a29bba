"""Chooses the reading of outputs as boxes, landmarks, a map or a vector: as declared, else by the model.

Values derived from the model's end and shapes are printed; `reading_check` then checks answers to samples.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path

import msgspec

from split_model.answers import anchors as anchor_files
from split_model.answers.reader import input_size
from split_model.bundle import Manifest, OutputSchema, file_ref
from split_model.bundle.reading_validation import check_reading
from split_model.bundle.readings import (
    DETECTION_OUTPUTS,
    ClassMap,
    DetectionLayout,
    Detections,
    Landmarks,
    Reading,
    Vector,
)
from split_model.errors import BadBundleError, BadInputError
from split_model.features.data import read_labels
from split_model.prepare.reading_declaration import (
    AnchorGrid,
    DetectionsWish,
    LandmarksWish,
    MapWish,
    ReadingWish,
    read_answer,
)
from split_model.prepare.tflite.ending import ending_of
from split_model.prepare.tflite.graph import Graph
from split_model.prepare.tflite.reading import ModelFile

_POSTPROCESS = "CUSTOM:TFLite_Detection_PostProcess"
_ORDERS = {"postprocess": "yxyx", "ssd": "yxhw", "yolov5": "xywh", "yolov8": "xywh", "rows": "xyxy"}
#: Divisors of offsets in TFLite's own SSD models.
_SSD_SCALES = (10.0, 10.0, 5.0, 5.0)
_ROW = (5, 6)


def with_row_bound(model: ModelFile, wish: ReadingWish | None) -> ModelFile:
    """Bound the model's outputs of unlimited rows by the declared ``max_rows``."""
    if not isinstance(wish, DetectionsWish) or wish.max_rows is None:
        return model
    tensors = list(model.graph.tensors)
    for index in model.graph.outputs:
        tensor = tensors[index]
        if tensor.open_axes and not tensor.bounded:
            rows = tuple(at for at in tensor.open_axes if at < len(tensor.shape) - 1)  # a row's length stays
            shape = tuple(wish.max_rows if at in rows else side for at, side in enumerate(tensor.shape))
            tensors[index] = dataclasses.replace(tensor, shape=shape, open_axes=rows, bounded=bool(rows))
    return dataclasses.replace(model, graph=dataclasses.replace(model.graph, tensors=tuple(tensors)))


def wished_answer(given: Path | None, graph: Graph) -> tuple[tuple[OutputSchema, ...], ReadingWish | None]:
    """The declaration (see `read_answer`), or boxes if there is none and the model ends in TFLite's own op."""
    schema, wish = read_answer(given)
    return schema, DetectionsWish() if given is None and ends_in_postprocess(graph) else wish


def ends_in_postprocess(graph: Graph) -> tuple[int, ...] | None:
    """The positions of boxes, classes, scores and count among the outputs, if one op makes all of them."""
    found = next((op for op in graph.ops if op.name == _POSTPROCESS), None)
    if found is None or len(found.outputs) != 4 or not set(found.outputs) <= set(graph.outputs):
        return None
    return tuple(graph.outputs.index(tensor) for tensor in found.outputs)


def declared_reading(
    manifest: Manifest, graph: Graph, scratch: Path, wish: ReadingWish, labels: Path | None
) -> tuple[Reading, str]:
    """Make the reading, write its files into ``scratch``, and return it with a line of text.

    Raises:
        BadInputError: The outputs do not fit the reading; the message has their shapes.

    """
    path = Path(wish.labels) if wish.labels is not None else labels
    names = () if path is None else read_labels(path)
    ref = None
    if path is not None and isinstance(wish, DetectionsWish | MapWish):
        shutil.copyfile(path, scratch / "labels.txt")
        ref = file_ref(scratch, "labels.txt")
    try:
        if isinstance(wish, DetectionsWish):
            made: Reading = _detections(manifest, graph, scratch, wish, len(names))
            made = msgspec.structs.replace(made, labels=ref)
        elif isinstance(wish, LandmarksWish):
            made = _landmarks(manifest, wish)
        elif isinstance(wish, MapWish):
            made = msgspec.structs.replace(_map(manifest, graph, wish, len(names)), labels=ref)
        else:
            made = Vector(output=wish.output, normalise=wish.normalise)
        check_reading(f"{graph.source}: --answer", made, manifest.outputs)
    except BadBundleError as error:
        told = ", ".join(f"{at} {list(spec.shape)}" for at, spec in enumerate(manifest.outputs))
        raise BadInputError(error.problem, remedy=f"declare others; the model has outputs {told}") from None
    _check_labels(made, manifest, path, len(names))
    return made, describe(made)


def describe(reading: Reading) -> str:
    """One line for the user: the reading of the outputs."""
    if isinstance(reading, Detections):
        return (
            f"outputs {', '.join(map(str, reading.outputs))} taken as detections: layout {reading.layout}, boxes "
            f"{reading.order} in {reading.unit}, scores {reading.scores}, least {reading.threshold:g}, "
            f"suppress {reading.suppress} over iou {reading.iou:g}; check with 'split-model preview'"
        )
    if isinstance(reading, Landmarks):
        told = f"landmarks: {reading.values} values a point, {reading.order} in {reading.unit}"
    elif isinstance(reading, ClassMap):
        told = "a map of class numbers" if reading.axis is None else f"a map: classes along axis {reading.axis}"
    else:
        told = f"a vector{', divided by its length' if reading.normalise else ''}"
    return f"output {reading.output} taken as {told}; check with 'split-model preview'"


def _detections(manifest: Manifest, graph: Graph, scratch: Path, wish: DetectionsWish, named: int) -> Detections:
    layout, outputs = _layout(manifest, graph, wish, named)
    unit = wish.unit or "fraction"
    order = wish.order or _ORDERS[layout]
    scores = wish.scores
    if scores is None:
        scores = "probabilities"
        if layout == "ssd" and len(outputs) > 1 and outputs[1] < len(manifest.outputs):
            kind = ending_of(graph, outputs[1]).kind
            scores = "multilabel-logits" if kind == "plain" else "probabilities"
    ref = None
    if layout == "ssd":
        if wish.anchors is None:
            raise BadInputError(
                f"{graph.source}: the layout 'ssd' needs anchors",
                remedy='declare "anchors" as a file, or as {"strides": [8], "sides": [[[0.3, 0.3]]]}',
            )
        _write_anchors(manifest, scratch, wish.anchors, outputs)
        ref = file_ref(scratch, "anchors.npz")
    elif wish.anchors is not None:
        raise BadInputError(f"{graph.source}: the layout {layout!r} has no anchors", remedy="leave them out")
    done = layout == "postprocess"
    return Detections(
        layout=layout,
        outputs=outputs,
        order=order,  # type: ignore[arg-type]
        unit=unit,
        scores=scores,
        background=wish.background,
        anchors=ref,
        scales=wish.scales or (_SSD_SCALES if layout == "ssd" else (1.0,) * 4),
        sizes=wish.sizes,
        threshold=wish.threshold,
        iou=wish.iou,
        suppress=wish.suppress or ("none" if done else "class"),
        most=wish.most,
        first_label=wish.first_label,
    )


def _write_anchors(manifest: Manifest, scratch: Path, given: str | AnchorGrid, outputs: tuple[int, ...]) -> None:
    if isinstance(given, AnchorGrid):
        if len(given.strides) != len(given.sides) or not all(given.sides):
            raise BadInputError(
                f"anchors of {len(given.strides)} strides and {len(given.sides)} lists of sides",
                remedy="declare one list of [height, width] a stride",
            )
        height, width = input_size(manifest)
        places = anchor_files.grid(height, width, strides=given.strides, sides=given.sides)
    else:
        places = anchor_files.read(Path(given))
    shape = manifest.outputs[outputs[0]].shape if outputs[0] < len(manifest.outputs) else ()
    boxes = math.prod(shape[:-1])
    if boxes != len(places):
        raise BadInputError(
            f"{len(places)} anchors for {boxes} boxes (output {outputs[0]} is {list(shape)})",
            remedy="declare the strides and sides that the model was trained with",
        )
    anchor_files.write(scratch / "anchors.npz", places)


def _layout(
    manifest: Manifest, graph: Graph, wish: DetectionsWish, named: int
) -> tuple[DetectionLayout, tuple[int, ...]]:
    """The layout of a detector's outputs and their positions, as declared or by their shapes."""
    done = ends_in_postprocess(graph)
    layout = wish.layout
    shapes = [spec.shape for spec in manifest.outputs]
    if layout is None and done is not None:
        layout = "postprocess"
    if layout is None and wish.anchors is not None:
        layout = "ssd"
    one = wish.outputs[0] if wish.outputs else 0
    if layout is None and one < len(shapes):
        layout = _layout_of(shapes[one], manifest.outputs[one].open_axes, named)
    if layout is None:
        told = ", ".join(f"{at} {list(shape)}" for at, shape in enumerate(shapes))
        raise BadInputError(
            f"{graph.source}: outputs {told} show no layout of a detector",
            remedy=f'declare "layout" ({", ".join(DETECTION_OUTPUTS)}) in a file for --answer',
        )
    if wish.outputs is not None:
        return layout, wish.outputs
    if layout == "postprocess" and done is not None:
        return layout, done
    if layout == "ssd":  # boxes have four values in the last place; a model may answer scores first
        boxes = next((at for at, shape in enumerate(shapes) if shape[-1:] == (4,)), 0)
        return layout, (boxes, 1 - boxes if boxes < 2 else 0)
    return layout, tuple(range(min(len(shapes), DETECTION_OUTPUTS[layout][1])))


def _layout_of(shape: tuple[int, ...], open_axes: tuple[int, ...], named: int) -> DetectionLayout | None:
    """The layout by the shape of a single output; ``named``: the number of labels, for ambiguous shapes."""
    if len(shape) < 2:
        return None
    if shape[-1] in _ROW and (open_axes or shape[-1] - 4 != named):
        return "rows"
    channels = min(shape[-2:])
    if shape[-2] == channels < shape[-1]:
        return "yolov8"
    if named and channels - 4 == named:
        return "yolov8"
    return "yolov5" if channels > 5 else None


def _landmarks(manifest: Manifest, wish: LandmarksWish) -> Landmarks:
    spec = manifest.outputs[wish.output] if wish.output < len(manifest.outputs) else manifest.outputs[0]
    values = wish.values
    if values is None:
        last = spec.shape[-1] if spec.shape else 1
        values = last if 2 <= last <= 5 and len(spec.shape) > 1 and spec.size > last else 2
        if wish.names and spec.size % len(wish.names) == 0:
            values = spec.size // len(wish.names)
    return Landmarks(
        output=wish.output,
        values=values,
        order=wish.order,
        unit=wish.unit or "pixels",
        score=wish.score,
        scores=wish.scores,
        names=wish.names,
    )


def _map(manifest: Manifest, graph: Graph, wish: MapWish, named: int) -> ClassMap:
    shape = manifest.outputs[wish.output].shape if wish.output < len(manifest.outputs) else ()
    axis = wish.axis
    if axis is None and len(shape) == 4:
        first, last = shape[1], shape[3]
        channels_first = manifest.preprocess is not None and manifest.preprocess.layout == "nchw"
        if named in (first, last) and first != last:
            channels_first = first == named
        axis = 1 if channels_first else 3
    elif axis is None and shape and not manifest.outputs[wish.output].dtype.startswith(("int", "uint")):
        raise BadInputError(
            f"{graph.source}: output {wish.output} of {list(shape)} is not a map, [1, height, width, classes]",
            remedy='declare "axis", along which the classes lie; maps of class numbers are whole numbers',
        )
    scores = wish.scores
    if scores is None:
        kinds = {"softmax": "probabilities", "sigmoid": "multilabel-probabilities", "plain": "logits"}
        scores = kinds[ending_of(graph, wish.output).kind] if shape else "logits"  # type: ignore[assignment]
    return ClassMap(output=wish.output, axis=axis, scores=scores or "logits")


def _check_labels(reading: Reading, manifest: Manifest, path: Path | None, named: int) -> None:
    """Refuse labels whose number differs from that of the outputs' classes, if that is known."""
    if path is None:
        return
    classes = class_count(reading, manifest)
    if classes is None:
        return
    first = reading.first_label if isinstance(reading, Detections) else 0
    if named - first != classes:
        raise BadInputError(
            f"{path}: {named} labels{f' from line {first}' if first else ''}, the model has {classes} classes",
            remedy='give one label a class; "background": true leaves out class 0, "first_label" skips lines',
        )


def class_count(reading: Reading, manifest: Manifest) -> int | None:
    """Number of classes; None if the outputs do not show it."""
    shapes = [manifest.outputs[at].shape for at in reading.outputs]
    if isinstance(reading, ClassMap):
        if reading.axis is None:
            return None
        return max(2, shapes[0][reading.axis])
    if not isinstance(reading, Detections):
        return None
    if reading.layout == "ssd":
        return math.prod(shapes[1]) // math.prod(shapes[0][:-1]) - reading.background
    if reading.layout == "yolov5":
        return shapes[0][-1] - 5
    return min(shapes[0][-2:]) - 4 - reading.background if reading.layout == "yolov8" else None

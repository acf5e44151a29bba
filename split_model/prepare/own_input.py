"""Finds the pre-processing of pictures: from flags, a file, and the model itself.

Size, layout and colour follow from the input's shape; the normalisation follows from the file's TFLite metadata or
from the grid of a quantised input. Derived values are printed. A float input without metadata has an unknown range,
which has to be declared.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import msgspec

from split_model.bundle import ImagePreprocess
from split_model.errors import BadInputError, UsageError
from split_model.features.preprocess import PICTURE_TYPES
from split_model.prepare.declaration import read_json
from split_model.prepare.tflite.graph import Tensor
from split_model.prepare.tflite.metadata import normalisation_of
from split_model.prepare.tflite.reading import ModelFile
from split_model.prepare.tflite.shapes import open_sides

_log = logging.getLogger(__name__)

Layout = Literal["nhwc", "nchw"]
_PICTURE_CHANNELS = (1, 3)


@dataclass(frozen=True, kw_only=True)
class InputWish:
    """The input's declaration by flags of ``prepare``; None: not declared."""

    resize: int | None = None
    fit: Literal["crop", "letterbox", "stretch"] | None = None
    pad: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: Literal["rgb", "bgr", "grey"] | None = None
    layout: Layout | None = None

    def is_empty(self) -> bool:
        """Whether nothing is declared."""
        return all(getattr(self, field.name) is None for field in fields(self))

    def keys(self) -> dict[str, object]:
        """The declared values by the keys of `ImagePreprocess`."""
        names = {"std": "scale", "channels": "colour"}
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {names.get(name, name): value for name, value in given.items() if value is not None}


def parse_numbers(flag: str, text: str) -> tuple[float, ...]:
    """Parse comma-separated numbers of a flag; `UsageError` if invalid."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{flag} {text}: not numbers", remedy="give one number, or one a channel, as 123.7,116.3,103.5"
        ) from None


def parse_shape(text: str) -> tuple[int, ...]:
    """Parse the sides of ``--input-shape``; `UsageError` if invalid."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--input-shape {text}: not a shape", remedy="give whole numbers, as 1,320,320,3"
        ) from None


def check_settled(model: ModelFile) -> None:
    """Refuse a model with an open input side that its file sets to 1: it would be prepared for 1 x 1.

    Raises:
        BadInputError: It has one; the message has the shape and the flag that fixes it.

    """
    for index, sides in zip(model.graph.inputs, open_sides(model), strict=True):
        tensor = model.graph.tensors[index]
        pairs = list(zip(sides, tensor.shape, strict=True))
        if any(side == -1 and stored == 1 for side, stored in pairs[1:]):
            told = ", ".join("?" if side == -1 else str(side) for side in sides)
            example = ",".join(
                "1" if at == 0 else "320" if side == -1 else str(side) for at, side in enumerate(sides)
            )
            raise BadInputError(
                f"{model.graph.source}: the input {tensor.name!r} is open, [{told}], and its file holds 1 there",
                remedy=f"settle it with --input-shape, as --input-shape {example}",
            )


def declared_preprocess(
    model: ModelFile, path: Path | None, wish: InputWish, *, pictures: bool
) -> ImagePreprocess | None:
    """The pre-processing of a model's pictures.

    Args:
        model: The model of its file; its shapes may be resolved.
        path: A JSON file with the keys of `ImagePreprocess`.
        wish: The flags, which win over the file.
        pictures: Whether the data include pictures, so that the model needs a pre-processing.

    Returns:
        None if nothing is declared, no pictures are given, and the model's metadata have no normalisation.

    Raises:
        BadInputError: The model takes no pictures, or the range of its pixels is unknown.

    """
    declared = read_json(path, ImagePreprocess, "a pre-processing declaration")
    if declared is not None:
        return msgspec.structs.replace(declared, **wish.keys())
    known = normalisation_of(model)
    if wish.is_empty() and not pictures and known is None:
        return None
    graph = model.graph
    tensor = graph.tensors[graph.inputs[0]]
    found = _size_of(tensor, wish.layout) if len(graph.inputs) == 1 else None
    if found is None:
        if wish.is_empty():
            return None
        shapes = [str(list(graph.tensors[at].shape)) for at in graph.inputs]
        raise BadInputError(
            f"{graph.source}: takes {', '.join(shapes)}, no picture",
            remedy="pictures need one input of [1, height, width, 1 or 3], or of [1, 1 or 3, height, width] with "
            "--layout nchw; else give an .npz of 'inputs'",
        )
    layout, height, width, channels = found
    mean, scale, why = _range_of(model, tensor, wish)
    made = ImagePreprocess(
        resize=wish.resize or min(height, width),
        crop=(height, width),
        mean=mean,
        scale=scale,
        colour=wish.channels or ("grey" if channels == 1 else "rgb"),
        # A crop of the centre would not fill both sides from every picture.
        fit=wish.fit or ("crop" if height == width or wish.resize is not None else "letterbox"),
        pad=wish.pad or 0,
        layout=layout,
    )
    if made.fit != "crop" and wish.resize not in (None, height, width):
        raise UsageError(
            f"--resize {wish.resize} with --{made.fit}: pictures go into the model's {height} x {width}",
            remedy="leave --resize out",
        )
    _log.info("%s", describe(made, why))
    return made


def describe(made: ImagePreprocess, why: str) -> str:
    """One line for the user: the pre-processing, and the origin of the range."""
    fit = f"shorter side {made.resize}, centre" if made.fit == "crop" else made.fit
    means, scales = ("/".join(f"{value:g}" for value in values) for values in (made.mean, made.scale))
    return (
        f"pictures taken as {made.crop[0]} x {made.crop[1]} {made.colour}, {made.layout}, {fit}, "
        f"(x - {means}) / {scales} ({why}); check with 'split-model preview'"
    )


def _size_of(tensor: Tensor, layout: Layout | None) -> tuple[Layout, int, int, int] | None:
    """Layout, height, width and channels of an input; None if it takes no pictures."""
    if len(tensor.shape) != 4 or tensor.shape[0] != 1:
        return None
    last, first = tensor.shape[3] in _PICTURE_CHANNELS, tensor.shape[1] in _PICTURE_CHANNELS
    if layout != "nchw" and last:
        height, width, channels = tensor.shape[1:]
        return "nhwc", height, width, channels
    if layout != "nhwc" and first:
        channels, height, width = tensor.shape[1:]
        return "nchw", height, width, channels
    return None


def _range_of(
    model: ModelFile, tensor: Tensor, wish: InputWish
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean and scale of the pixels, and their origin."""
    if tensor.dtype not in PICTURE_TYPES:
        raise BadInputError(
            f"{model.graph.source}: takes {tensor.dtype} pictures; pictures go into float or 8-bit inputs",
            remedy="give an .npz of 'inputs'",
        )
    if (wish.mean is None) != (wish.std is None):
        raise UsageError("--mean and --std go together", remedy="give both, as --mean 127.5 --std 127.5")
    if wish.mean is not None and wish.std is not None:
        return wish.mean, wish.std, "as declared"
    known = normalisation_of(model)
    if known is not None:
        return known.mean, known.std, "by its TFLite metadata"
    if tensor.dtype == "uint8":
        return (float(tensor.zero_point),), (1 / tensor.scale if tensor.scale else 1.0,), "its codes are the pixels"
    if tensor.dtype == "int8" and tensor.scale:
        return (128.0 + tensor.zero_point,), (1 / tensor.scale,), "its codes are the pixels less 128"
    raise BadInputError(
        f"{model.graph.source}: takes {tensor.dtype} pictures and does not say in which range",
        remedy="declare it: --mean 0 --std 255 for 0..1, --mean 127.5 --std 127.5 for -1..1, "
        "--mean 0 --std 1 for 0..255",
    )

"""Draws an answer into its picture: boxes with labels, points, a map as colours; and tells it in a few words."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from split_model.answers.png import read_png
from split_model.features.picture_files import pillow

#: Of classes, in turn; they can be told apart on most pictures, and by most colour-blind people.
_COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178),
)  # fmt: skip
_BLEND = 0.5
_SHOWN = 3
_FAR = 1e6

#: The keys of a record that have an answer which can be drawn.
DRAWN = ("detections", "landmarks", "map")


def draw_answer(image: Any, answer: Mapping[str, Any]) -> Any:
    """The picture with an answer in it.

    Args:
        image: Of Pillow, RGB, the upright picture in any size.
        answer: The fields of a record: ``picture``, and ``detections``, ``landmarks`` or ``map``.

    Returns:
        Another image of the same size.

    """
    drawn = image.copy()
    height, width = answer.get("picture", (image.height, image.width))
    factor = np.array([image.width / width, image.height / height])
    pen = pillow("ImageDraw").Draw(drawn)
    if "map" in answer:
        _draw_map(drawn, answer["map"], factor)
    for one in answer.get("detections", ()):
        ends = (np.array(one["box"]).reshape(2, 2) * factor).round().ravel().tolist()
        colour = colour_of(one["class"])
        pen.rectangle(ends, outline=colour, width=2)
        _tag(pen, ends[0], ends[1], f"{one['label']} {one['score']:.2f}", colour)
    radius = max(1, min(image.size) // 80)
    for at, one in enumerate(answer.get("landmarks", ())):
        if one["x"] is None or one["y"] is None or max(abs(one["x"]), abs(one["y"])) > _FAR:
            continue
        x, y = np.array([one["x"], one["y"]]) * factor
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour_of(at), outline=(0, 0, 0))
    return drawn


def describe_answer(answer: Mapping[str, Any]) -> str:
    """The answer in a few words, empty where the record has none."""
    told = ""
    if answer.get("top"):
        told = f"{answer['top'][0]['label']} {answer['top'][0]['score']:.2f}"
    elif "detections" in answer:
        counts = Counter(str(one["label"]) for one in answer["detections"])
        told = ", ".join(f"{count} {label}" for label, count in counts.items()) or "nothing found"
    elif "landmarks" in answer:
        told = f"{len(answer['landmarks'])} points"
    elif "map" in answer:
        told = ", ".join(f"{one['label']} {one['share']:.0%}" for one in answer["map"]["classes"][:_SHOWN])
    elif "vector" in answer:
        told = f"vector of {answer['vector']['size']} values"
    elif "outputs" in answer:
        told = f"{len(answer['outputs'])} outputs"
    return told


def colour_of(number: int) -> tuple[int, int, int]:
    """The colour of a class or a point."""
    return _COLOURS[number % len(_COLOURS)]


def _draw_map(drawn: Any, found: Mapping[str, Any], factor: Any) -> None:
    """Blend the classes of a map into a picture; class 0, the ground in most models, stays clear."""
    png = found.get("png")
    if png is None:
        return
    codes = read_png(png if isinstance(png, bytes) else base64.b64decode(png))
    palette = np.array([colour_of(code - 1) for code in range(int(codes.max()) + 1)], np.uint8)
    image_module = pillow("Image")
    left, top, right, bottom = (np.array(found["box"]).reshape(2, 2) * factor).round().astype(int).ravel().tolist()
    size = (max(1, right - left), max(1, bottom - top))
    colours = image_module.fromarray(palette[codes]).resize(size, image_module.Resampling.NEAREST)
    mask = image_module.fromarray(((codes > 0) * round(255 * _BLEND)).astype(np.uint8))
    drawn.paste(colours, (left, top), mask.resize(size, image_module.Resampling.NEAREST))


def _tag(pen: Any, x: float, y: float, text: str, colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = pen.textbbox((x + 2, y), text)
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), fill=colour)
    pen.text((x + 2, y), text, fill=(0, 0, 0))

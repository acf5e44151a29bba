"""What of an answer fits into a line of JSON or a message, and the compact line for a microcontroller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: A map whose PNG has more bytes than this is not written into a record.
MAX_INLINE_BYTES = 16 << 10
#: Coordinates beyond are cut off, so that a line stays short.
_FAR = 99_999
#: Most boxes, points and classes of a compact line: 400 bytes or so, 40 ms at 115200 baud.
_MOST_BOXES, _MOST_POINTS, _MOST_CLASSES, _MOST_VALUES = 8, 32, 8, 16


def shortened(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record without a map that is too long for a line or a message; how many bytes it has is told instead."""
    found = record.get("map")
    if found is None or len(found["png"]) <= MAX_INLINE_BYTES:
        return record
    return {**record, "map": {**without_png(found), "png_bytes": len(found["png"])}}


def without_png(found: Mapping[str, Any]) -> dict[str, Any]:
    """The ``map`` of a record without its picture."""
    return {key: value for key, value in found.items() if key != "png"}


def compact_fields(record: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The letter and the fields of a compact line behind the outcome; None for an answer that is not read.

    ``A`` class, score; ``D`` how many boxes, then class, score, x0, y0, x1, y1 of the best ones; ``L`` how many
    points, then x, y of the first ones; ``M`` height, width, then class, share of the largest ones; ``V`` how many
    values, then the first ones. Coordinates are whole pixels; empty where they are not finite.
    """
    if "top" in record:
        return "A", [f"{best['class']},{best['score']:.4f}" for best in record["top"][:1]]
    if "detections" in record:
        boxes = record["detections"]
        return "D", [
            str(len(boxes)),
            *(
                f"{one['class']},{one['score']:.2f},{','.join(f'{round(end)}' for end in one['box'])}"
                for one in boxes[:_MOST_BOXES]
            ),
        ]
    if "landmarks" in record:
        points = record["landmarks"]
        told = (f"{_whole(one['x'])},{_whole(one['y'])}" for one in points[:_MOST_POINTS])
        return "L", [str(len(points)), *told]
    if "map" in record:
        found = record["map"]
        told = (f"{one['class']},{one['share']:.4f}" for one in found["classes"][:_MOST_CLASSES])
        return "M", [str(found["height"]), str(found["width"]), *told]
    if "vector" in record:
        vector = record["vector"]
        return "V", [
            str(vector["size"]),
            *(f"{value:.6g}" for value in vector.get("values", ())[:_MOST_VALUES]),
        ]
    return None


def _whole(value: float | None) -> str:
    """A coordinate as few bytes, whatever a model answers."""
    return "" if value is None else str(round(min(max(value, -_FAR), _FAR)))

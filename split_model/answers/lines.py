"""Shortens an answer for a line of JSON, a message, or the compact line for a microcontroller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Maximum bytes of a map's PNG in a record.
MAX_INLINE_BYTES = 16 << 10
#: Limit of coordinates, so that a line stays short.
_FAR = 99_999
#: Maximum boxes, points and classes of a compact line: about 400 bytes, 40 ms at 115200 baud.
_MOST_BOXES, _MOST_POINTS, _MOST_CLASSES, _MOST_VALUES = 8, 32, 8, 16


def shortened(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the record, a too long map replaced by its number of bytes."""
    found = record.get("map")
    if found is None or len(found["png"]) <= MAX_INLINE_BYTES:
        return record
    return {**record, "map": {**without_png(found), "png_bytes": len(found["png"])}}


def without_png(found: Mapping[str, Any]) -> dict[str, Any]:
    """The ``map`` of a record without its picture."""
    return {key: value for key, value in found.items() if key != "png"}


def compact_fields(record: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The letter and the fields of a compact line after the outcome; None for raw outputs.

    ``A`` class, score; ``D`` number of boxes, then class, score, x0, y0, x1, y1 of the best ones; ``L`` number of
    points, then x, y of the first ones; ``M`` height, width, then class, share of the largest ones; ``V`` number of
    values, then the first ones. Coordinates are whole pixels; empty if not finite.
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
    """Format a coordinate in a few bytes, for any value."""
    return "" if value is None else str(round(min(max(value, -_FAR), _FAR)))

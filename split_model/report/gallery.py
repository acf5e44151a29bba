"""The report's photographs: small JPEG thumbnails for the page, each with the answers it was given."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from split_model.report.answer_drawing import DRAWN, describe_answer, draw_answer
from split_model.report.log import Frame

THUMBNAIL_PX = 208
DRAWN_PX = 320
SHOWN_PASSES = 3
"""Passes of one photograph that are shown at once; the others are folded away."""


def thumbnail(path: Path) -> str | None:
    """Return the picture's middle square as a JPEG data URI, or None when it cannot be read as a picture."""
    try:
        with Image.open(path) as picture:
            square = ImageOps.fit(ImageOps.exif_transpose(picture).convert("RGB"), (THUMBNAIL_PX, THUMBNAIL_PX))
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    out = io.BytesIO()
    square.save(out, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def drawn_thumbnail(path: Path, found: Mapping[str, Any]) -> str | None:
    """Return the whole picture with an answer drawn into it as a JPEG data URI, or None when it cannot be read."""
    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    out = io.BytesIO()
    draw_answer(ImageOps.contain(upright, (DRAWN_PX, DRAWN_PX)), found).save(out, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def photographs(frames: Sequence[Frame], folder: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the photographs of one policy's frames for the template, and how many of them could not be read.

    Paths in the log that are not absolute count from ``folder``. One entry a photograph, in
    order of first appearance, with every time it was shown to the board.
    """
    passes: dict[tuple[str, str | None], list[Frame]] = {}
    for frame in frames:
        passes.setdefault((frame.name, frame.image), []).append(frame)
    found, unread = [], 0
    for (name, image), shown in passes.items():
        uri = thumbnail(folder / image) if image else None
        unread += image is not None and uri is None
        drawn = _drawn(folder / image, shown[:SHOWN_PASSES]) if image and uri is not None else []
        found.append(_photograph(name, uri, shown, drawn))
    return found, unread


def _drawn(path: Path, frames: Sequence[Frame]) -> list[dict[str, str]]:
    """Each frame's picture with its answer drawn into it, for answers that can be drawn."""
    found = []
    for frame in frames:
        if frame.found is not None and any(key in frame.found for key in DRAWN):
            uri = drawn_thumbnail(path, frame.found)
            if uri is not None:
                where = frame.outcome if frame.outcome == "local" else f"{frame.outcome}, {frame.split_label}"
                found.append({"uri": uri, "answer": describe_answer(frame.found), "where": where})
    return found


def _photograph(
    name: str, uri: str | None, shown: Sequence[Frame], drawn: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    return {
        "name": name,
        "uri": uri,
        "width": THUMBNAIL_PX,
        "drawn": drawn,
        "truth": shown[0].truth,
        "found": shown[0].found is not None,
        "unprotected": shown[0].unprotected_top1,
        "first": [_pass(frame) for frame in shown[:SHOWN_PASSES]],
        "more": [_pass(frame) for frame in shown[SHOWN_PASSES:]],
    }


def _pass(frame: Frame) -> dict[str, Any]:
    wanted, against = (
        (frame.truth, "truth") if frame.truth is not None else (frame.unprotected_top1, "unprotected model")
    )
    score, mark = None, None
    if frame.label is None and frame.found is not None:
        answer = describe_answer(frame.found)
    elif frame.label is None:
        answer, mark = "no answer", {"kind": "wrong", "title": "no answer", "sign": "✗"}
    else:
        answer, score = frame.label, frame.answer[0].score
        if wanted is not None:
            mark = _mark(frame.label == wanted, against)
    return {"frame": frame, "answer": answer, "score": score, "mark": mark}


def _mark(equal: bool, against: str) -> dict[str, str]:
    if equal:
        return {"kind": "right", "title": f"as the {against}", "sign": "✓"}
    return {"kind": "wrong", "title": f"not as the {against}", "sign": "✗"}

"""The report's photographs: small JPEG thumbnails inside the page, each with the answers it was given."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from split_model.report.answer_drawing import DRAWN, describe_answer, draw_answer
from split_model.report.figures import milliseconds, percent
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


def gallery(frames: Sequence[Frame], folder: Path) -> tuple[str, int]:
    """Return the photographs of one policy's frames as HTML, and how many of them could not be read.

    Paths in the log that are not absolute count from ``folder``. One card a photograph, in
    order of first appearance, with every time it was shown to the board.
    """
    passes: dict[tuple[str, str | None], list[Frame]] = {}
    for frame in frames:
        passes.setdefault((frame.name, frame.image), []).append(frame)
    cards, unread = [], 0
    for (name, image), shown in passes.items():
        source = thumbnail(folder / image) if image else None
        unread += image is not None and source is None
        drawn = {}
        if image and source is not None:
            drawn = {
                id(frame): made
                for frame in shown[:SHOWN_PASSES]
                if frame.found is not None
                and any(key in frame.found for key in DRAWN)
                and (made := drawn_thumbnail(folder / image, frame.found)) is not None
            }
        cards.append(_card(name, source, shown, drawn))
    return f'<div class="gallery">{"".join(cards)}</div>', unread


def _card(name: str, source: str | None, shown: Sequence[Frame], drawn: Mapping[int, str]) -> str:
    alt = escape(name, quote=True)
    if drawn:
        pictures = (
            f'<figure><img src="{drawn[id(frame)]}" alt="{alt}, {escape(_words(frame), quote=True)}">'
            f"<figcaption>{escape(_where(frame))}</figcaption></figure>"
            for frame in shown
            if id(frame) in drawn
        )
        picture = f'<div class="drawn">{"".join(pictures)}</div>'
    elif source is None:
        picture = '<div class="nopicture">no picture</div>'
    else:
        picture = f'<img src="{source}" alt="{alt}" width="{THUMBNAIL_PX}" height="{THUMBNAIL_PX}">'
    truth = shown[0].truth
    unprotected = shown[0].unprotected_top1
    told = f"<div>truth: <b>{escape(truth)}</b></div>" if truth is not None else "<div>no label</div>"
    told = "" if truth is None and shown[0].found is not None else told
    if unprotected is not None:
        told += f"<div>unprotected: {escape(unprotected)}</div>"
    first, more = shown[:SHOWN_PASSES], shown[SHOWN_PASSES:]
    folded = f"<details><summary>{len(more)} more</summary>{_passes(more)}</details>" if more else ""
    return (
        f'<article class="photo">{picture}<div class="phototext"><div class="filename">{escape(name)}</div>'
        f'<div class="truth">{told}</div>{_passes(first)}{folded}</div></article>'
    )


def _passes(frames: Sequence[Frame]) -> str:
    return "".join(_pass(frame) for frame in frames)


def _pass(frame: Frame) -> str:
    wanted, against = (
        (frame.truth, "truth") if frame.truth is not None else (frame.unprotected_top1, "unprotected model")
    )
    if frame.label is None and frame.found is not None:
        answer, mark = escape(_words(frame)), ""
    elif frame.label is None:
        answer, mark = "no answer", '<span class="wrong" title="no answer">✗</span>'
    else:
        score = "" if frame.answer[0].score is None else f" <small>{percent(frame.answer[0].score)}</small>"
        answer = escape(frame.label) + score
        mark = _mark(frame.label == wanted, against) if wanted is not None else ""
    where = "" if frame.outcome == "local" else f" · {escape(frame.split_label)}"
    return (
        f'<div class="pass"><div class="answer"><span>{mark} {answer}</span><small>{frame.at_s:.1f} s</small></div>'
        f'<div class="outcome"><span class="tag {frame.outcome}">{frame.outcome}</span>{where} · '
        f"{milliseconds(frame.latency_s)}</div></div>"
    )


def _words(frame: Frame) -> str:
    return describe_answer(frame.found or {})


def _where(frame: Frame) -> str:
    return frame.outcome if frame.outcome == "local" else f"{frame.outcome}, {frame.split_label}"


def _mark(equal: bool, against: str) -> str:
    if equal:
        return f'<span class="right" title="as the {against}">✓</span>'
    return f'<span class="wrong" title="not as the {against}">✗</span>'

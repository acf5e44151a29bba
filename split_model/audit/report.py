"""The audit as one HTML page that needs nothing but itself: verdicts, figures, and what the attackers saw."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np

from split_model.audit.pictures import Floats
from split_model.audit.results import Audit, Result
from split_model.audit.text import identified, spread, statement, task_share
from split_model.audit.trade_off import trade_off
from split_model.audit.verdict import LAYOUT_SSIM, PICTURE_SSIM, WORDS
from split_model.report.page import render_page

_SHOWN = 6
#: About the pixels a side of a picture in the page: small ones keep hard edges, large ones are averaged.
_SIDE_PX = 160


def render(audit: Audit, victims: Floats, folder: Path) -> str:
    """The page. ``victims``: the attacked pictures; ``folder``: where the audit kept what the attackers saw."""
    sheets = [
        _sheet(f"cut {result.cut}, {result.setting}: {WORDS[result.reveals]}", _kept(folder / result.pictures))
        for result in audit.results
    ]
    return render_page(
        "audit.html",
        f"Audit of {audit.bundle}",
        audit=audit,
        statement=statement(audit),
        verdicts=[_verdict(result) for result in audit.results],
        attacked=_sheet("as they are", victims[:_SHOWN]),
        sheets=sheets,
        curve=trade_off(audit),
        identities=_identities(audit),
        spread=spread,
        picture_ssim=PICTURE_SSIM,
        layout_ssim=LAYOUT_SSIM,
    )


def _verdict(result: Result) -> dict[str, Any]:
    whole = result.whole_input_epsilon
    return {
        "cut": result.cut,
        "setting": result.setting,
        "words": WORDS[result.reveals],
        "ssim": result.best.ssim,
        "agreement": task_share(result),
        "named": "" if result.identity is None else identified(result.identity),
        "picked": "" if result.found is None else f"{result.found:.2f} (bound {result.bound:.2f})",
        "whole_input": "none" if whole is None else f"{whole:,.4g}" if whole < 1000 else f"{whole:,.0f}",
    }


def _identities(audit: Audit) -> list[dict[str, Any]]:
    """A row of the answer alone, and one of each release."""
    named = [(result.cut, result.setting, result.identity) for result in audit.results]
    return [
        {"cut": cut, "release": release, "retrieval": identity.retrieval, "probe": identity.probe}
        for cut, release, identity in [("", "the answer alone", audit.answer_identity), *named]
        if identity is not None
    ]


def _sheet(title: str, pictures: Floats) -> dict[str, Any]:
    return {"title": title, "images": [_uri(picture) for picture in pictures]}


def _uri(picture: Floats) -> str:
    from PIL import Image

    pixels = (np.clip(picture, 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    times = _SIDE_PX / max(image.size)
    if times >= 1:
        image = image.resize((image.width * int(times), image.height * int(times)), Image.Resampling.NEAREST)
    else:
        image = image.resize((round(image.width * times), round(image.height * times)), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _kept(path: Path) -> Floats:
    with np.load(path) as kept:
        shown: Floats = kept["pictures"].astype(np.float32) / 255
    return shown

"""The audit as one HTML page that needs nothing but itself: verdicts, figures, and what the attackers saw."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from split_model.audit.pictures import Floats
from split_model.audit.results import Attack, Audit, Result
from split_model.audit.verdict import LAYOUT_SSIM, PICTURE_SSIM, WORDS
from split_model.report.page import document

_SHOWN = 6
_SIDE_PX = 96


def render(audit: Audit, victims: Floats, folder: Path) -> str:
    """The page. ``victims``: the attacked pictures; ``folder``: where the audit kept what the attackers saw."""
    effort = "quick: attackers had little time, a real one does better" if audit.quick else "full"
    body = [
        f"<h1>What the server could see of {escape(audit.bundle)}</h1>",
        _paragraph(
            f"{audit.victims} pictures attacked by someone who knows the bundle, the mechanism and {audit.public} "
            f"other pictures ({effort}). Bundle {audit.identity[:12]}."
        ),
        "<h2>Verdicts</h2>",
        _verdicts(audit.results),
        _paragraph(
            f"By the strongest attack on one release: from SSIM {PICTURE_SSIM:g} on the picture is recognisable, "
            f"from {LAYOUT_SSIM:g} on the layout is visible (He, Zhang and Lee, ACSAC 2019, call less "
            "unrecognisable). Below, an SSIM above that of the answer alone is called traces. An attack that fails "
            "proves nothing; ε does."
        ),
        "<h2>Without any features</h2>",
        _table(
            ("drawn", "SSIM", "PSNR"),
            [
                (escape(one.name), _spread(one.ssim, one.ssim_low, one.ssim_high), f"{one.psnr_db:.1f} dB")
                for one in audit.references
            ],
        ),
        "<h2>Every attack</h2>",
        _table(
            ("cut", "release", "attacker", "SSIM, 95 % interval", "PSNR"),
            [_attack(result, attack) for result in audit.results for attack in result.attacks],
        ),
        "<h2>Pictures</h2>",
        "<p>The attacked pictures, and below what the strongest attack made of each setting.</p>",
        _sheet("as they are", victims[:_SHOWN]),
        *(
            _sheet(f"cut {result.cut}, {result.setting}: {WORDS[result.reveals]}", _kept(folder / result.pictures))
            for result in audit.results
        ),
    ]
    if audit.skipped:
        listed = "".join(f"<li>{escape(reason)}</li>" for reason in audit.skipped)
        body += ["<h2>Not tried</h2>", f"<ul>{listed}</ul>"]
    return document(f"Audit of {audit.bundle}", body)


def text(audit: Audit) -> str:
    """The verdicts for a terminal of 80 columns."""
    lines = [f"{audit.victims} pictures of {audit.bundle}, attackers know {audit.public} others"]
    lines += [f"  without features, {one.name}: SSIM {one.ssim:.2f}" for one in audit.references]
    for result in audit.results:
        best = result.attacks[0]
        similar = _spread(best.ssim, best.ssim_low, best.ssim_high)
        lines += [
            f"cut {result.cut}, {result.setting}: {WORDS[result.reveals]}",
            f"  SSIM {similar} by {best.attacker}{_found(result)}",
        ]
    lines += [f"not tried: {reason}" for reason in audit.skipped]
    return "\n".join(lines)


def _found(result: Result) -> str:
    if result.found is None or result.bound is None:
        return ""
    return f"; picked out of {result.candidates}: {result.found:.2f} (bound {result.bound:.2f})"


def _paragraph(words: str) -> str:
    return f"<p>{escape(words)}</p>"


def _verdicts(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        whole = "none" if result.whole_input_epsilon is None else f"{result.whole_input_epsilon:.4g}"
        value = "" if result.per_value_epsilon is None else f"{result.per_value_epsilon:g}"
        picked = "" if result.found is None else f"{result.found:.2f} (bound {result.bound:.2f})"
        rows.append((str(result.cut), escape(result.setting), value, whole, escape(WORDS[result.reveals]), picked))
    heads = ("cut", "release", "ε a value", "ε whole input", "what the server sees", "frame picked out")
    return _table(heads, rows)


def _attack(result: Result, attack: Attack) -> tuple[str, ...]:
    return (
        str(result.cut),
        escape(result.setting),
        escape(f"{attack.attacker} ({attack.note})" if attack.note else attack.attacker),
        _spread(attack.ssim, attack.ssim_low, attack.ssim_high),
        f"{attack.psnr_db:.1f} dB",
    )


def _spread(value: float, low: float, high: float) -> str:
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _sheet(title: str, pictures: Floats) -> str:
    size = f'width="{_SIDE_PX}" height="{_SIDE_PX}"'
    images = "".join(
        f'<img src="{_uri(picture)}" {size} alt="{escape(title)}, picture {at + 1}">'
        for at, picture in enumerate(pictures)
    )
    return f"<h3>{escape(title)}</h3><p>{images}</p>"


def _uri(picture: Floats) -> str:
    from PIL import Image

    pixels = (np.clip(picture, 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    out = io.BytesIO()
    image.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.NEAREST).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _kept(path: Path) -> Floats:
    with np.load(path) as kept:
        shown: Floats = kept["pictures"].astype(np.float32) / 255
    return shown

"""The audit as one HTML page that needs nothing but itself: verdicts, figures, and what the attackers saw."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from split_model.audit.pictures import Floats
from split_model.audit.results import Attack, Audit, Identity, Result, WireCheck
from split_model.audit.text import identified, spread, statement, task_share
from split_model.audit.trade_off import trade_off
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
        _verdicts(audit),
        _paragraph(
            f"By the strongest attack on one release: from SSIM {PICTURE_SSIM:g} on the picture is recognisable, "
            f"from {LAYOUT_SSIM:g} on the layout is visible (He, Zhang and Lee, ACSAC 2019, call less "
            "unrecognisable). Below, an SSIM above that of the answer alone is called traces, and so is a person "
            "who is named more often than by the answer alone. An attack that fails proves nothing; ε does."
        ),
        *(_paragraph(line) for line in statement(audit)),
        "<h2>What protection costs</h2>",
        _paragraph(
            "Every protected release: agreement with the unsplit model against the SSIM of the strongest attack on "
            "one release. Good is right and low. Compare releases at the same agreement, not at the same ε."
        ),
        trade_off(audit),
        "<h2>Without any features</h2>",
        _table(
            ("drawn", "SSIM", "PSNR"),
            [
                (escape(one.name), spread(one.ssim, one.ssim_low, one.ssim_high), f"{one.psnr_db:.1f} dB")
                for one in audit.references
            ],
        ),
        "<h2>Every attack</h2>",
        _table(
            ("cut", "release", "attacker", "SSIM, 95 % interval", "PSNR", "distance in features"),
            [_attack(result, attack) for result in audit.results for attack in result.attacks],
        ),
        _paragraph(
            "Distance in features: 0 where the head gives the reconstruction the features of the true picture, 1 "
            "where they are as far away as those of the mean public picture."
        ),
        *_identities(audit),
        *_wire(audit.wire),
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


def _paragraph(words: str) -> str:
    return f"<p>{escape(words)}</p>"


def _verdicts(audit: Audit) -> str:
    rows = []
    for result in audit.results:
        whole = "none" if result.whole_input_epsilon is None else f"{result.whole_input_epsilon:.4g}"
        value = "" if result.per_value_epsilon is None else f"{result.per_value_epsilon:g}"
        picked = "" if result.found is None else f"{result.found:.2f} (bound {result.bound:.2f})"
        named = "" if result.identity is None else identified(result.identity)
        rows.append(
            (
                str(result.cut),
                escape(result.setting),
                value,
                whole,
                escape(WORDS[result.reveals]),
                f"{result.best.ssim:.2f}",
                task_share(result),
                named,
                picked,
            )
        )
    heads = ("cut", "release", "ε a value", "ε whole input", "what the server sees", "SSIM")
    return _table((*heads, "agreement", "people named", "frame picked out"), rows)


def _attack(result: Result, attack: Attack) -> tuple[str, ...]:
    return (
        str(result.cut),
        escape(result.setting),
        escape(f"{attack.attacker} ({attack.note})" if attack.note else attack.attacker),
        spread(attack.ssim, attack.ssim_low, attack.ssim_high),
        f"{attack.psnr_db:.1f} dB",
        f"{attack.feature_distance:.3g}",
    )


def _identities(audit: Audit) -> list[str]:
    if audit.answer_identity is None:
        return []
    answer = audit.answer_identity
    rows = [("", "the answer alone", *_named(answer))]
    rows += [
        (str(result.cut), escape(result.setting), *_named(result.identity))
        for result in audit.results
        if result.identity is not None
    ]
    return [
        "<h2>Who is it?</h2>",
        _paragraph(
            f"How often one of {answer.people} people is named from one release; chance is {answer.chance:.3f}. "
            "Retrieval takes the person of the nearest known picture, the probe is a linear classifier that was "
            "trained on releases. The answer alone: the same from all outputs of the unsplit model."
        ),
        _table(("cut", "release", "retrieval, 95 % interval", "linear probe, 95 % interval"), rows),
    ]


def _named(identity: Identity) -> tuple[str, str]:
    return (
        spread(identity.retrieval.value, identity.retrieval.low, identity.retrieval.high),
        spread(identity.probe.value, identity.probe.low, identity.probe.high),
    )


def _wire(checks: Sequence[WireCheck]) -> list[str]:
    if not checks:
        return []
    rows = [
        (
            str(check.cut),
            escape(check.setting),
            escape(check.name),
            f"{check.claim:.3g}",
            f"{check.proven:.3g}",
            "holds" if check.holds else "<strong>BROKEN</strong>",
            escape(check.text),
        )
        for check in checks
    ]
    return [
        "<h2>Does what leaves keep its ε?</h2>",
        _paragraph(
            "Payloads of the releases, as they arrive through the wire. Claimed: the largest log ratio of "
            "probabilities that the release allows between two frames. Proven: what the payloads prove, wrong with "
            "a chance of one in a million. A proof above the claim is a bug; one below proves nothing."
        ),
        _table(("cut", "release", "check", "claimed", "proven", "", ""), rows),
    ]


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

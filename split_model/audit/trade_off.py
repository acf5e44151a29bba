"""The trade-off curve: what each release leaves of the task against what the strongest attack sees, as SVG."""

from __future__ import annotations

from html import escape

from split_model.audit.results import Audit, Result
from split_model.audit.verdict import LAYOUT_SSIM, PICTURE_SSIM

_WIDTH, _HEIGHT, _LEFT, _TOP = 640, 360, 60, 20
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")


def kind(result: Result) -> str:
    """What makes a curve: the mechanism, its allocation, whether the tail was trained with the noise."""
    if result.spec is not None:
        aware = ", noise-aware tail" if result.task is not None and result.task.aware is not None else ""
        return f"noise, {result.spec.allocation}{aware}"
    return "none" if result.codebook is None else "codebook"


def trade_off(audit: Audit) -> str:
    """The drawing; a sentence where no task was measured. A line a cut and kind of release, by ε."""
    points = [
        (result, result.task.best)
        for result in audit.results
        if result.task is not None and result.task.best is not None
    ]
    if not points:
        return "<p>The task was not measured.</p>"
    kinds = list(dict.fromkeys((result.cut, kind(result)) for result, _ in points))
    parts = [f'<svg viewBox="0 0 {_WIDTH + 260} {_HEIGHT + 60}" role="img" aria-label="agreement against SSIM">']
    for level in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_line(0, level, 1, level, "#ddd"))
        parts.append(_label(_LEFT - 8, _y(level) + 4, f"{level:g}", "end"))
        parts.append(_label(_x(level), _TOP + _HEIGHT + 18, f"{level:g}", "middle"))
    parts += [_line(0, level, 1, level, "#888", dashed=True) for level in (LAYOUT_SSIM, PICTURE_SSIM)]
    parts.append(_label(_x(0.5), _TOP + _HEIGHT + 38, "agreement with the unsplit model", "middle"))
    parts.append(_label(_LEFT, _TOP - 6, "SSIM of the strongest attack", "start"))
    for at, (cut, name) in enumerate(kinds):
        colour = _COLOURS[at % len(_COLOURS)]
        mine = sorted(
            ((agreement, result) for result, agreement in points if (result.cut, kind(result)) == (cut, name)),
            key=lambda one: one[1].per_value_epsilon or one[1].whole_input_epsilon or 0.0,
        )
        path = " ".join(f"{_x(agreement):.1f},{_y(result.best.ssim):.1f}" for agreement, result in mine)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        for agreement, result in mine:
            title = escape(f"cut {cut}, {result.setting}: agreement {agreement:.3f}, SSIM {result.best.ssim:.2f}")
            parts.append(
                f'<circle cx="{_x(agreement):.1f}" cy="{_y(result.best.ssim):.1f}" r="4" fill="{colour}">'
                f"<title>{title}</title></circle>"
            )
        top = _TOP + 16 * at
        parts.append(f'<rect x="{_LEFT + _WIDTH + 16}" y="{top}" width="10" height="10" fill="{colour}"/>')
        parts.append(_label(_LEFT + _WIDTH + 32, top + 9, escape(f"cut {cut}, {name}"), "start"))
    parts.append("</svg>")
    return "".join(parts)


def _x(share: float) -> float:
    return _LEFT + share * _WIDTH


def _y(ssim: float) -> float:
    return _TOP + (1 - max(0.0, min(1.0, ssim))) * _HEIGHT


def _line(left: float, low: float, right: float, high: float, colour: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return (
        f'<line x1="{_x(left):.1f}" y1="{_y(low):.1f}" x2="{_x(right):.1f}" y2="{_y(high):.1f}" '
        f'stroke="{colour}"{dash}/>'
    )


def _label(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" text-anchor="{anchor}">{words}</text>'

"""The trade-off curve: what each release leaves of the task against what the strongest attack sees."""

from __future__ import annotations

import io
from typing import Any

from split_model.audit.results import Audit, Result
from split_model.audit.verdict import LAYOUT_SSIM, PICTURE_SSIM
from split_model.report.page import Plot, plot
from split_model.report.plots import drawing
from split_model.report.style import LIGHT, Theme

_MARKERS = "osv^DXP*"
_CAPTION = (
    "Every protected release: agreement with the unsplit model against the SSIM of the strongest attack on one "
    "release. Good is right and low. Compare releases at the same agreement, not at the same ε."
)


def kind(result: Result) -> str:
    """What makes a curve: the mechanism, its allocation, whether the tail was trained with the noise."""
    if result.spec is not None:
        aware = ", noise-aware tail" if result.task is not None and result.task.aware is not None else ""
        return f"noise, {result.spec.allocation}{aware}"
    return "none" if result.codebook is None else "codebook"


def trade_off(audit: Audit) -> Plot | None:
    """The drawing, a line a cut and kind of release, by ε; None where no task was measured."""
    points = [
        (result, result.task.best)
        for result in audit.results
        if result.task is not None and result.task.best is not None
    ]
    if not points:
        return None
    out = io.StringIO()
    with drawing(LIGHT, 4.6) as figure:
        _draw(figure.subplots(), points, LIGHT)
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return plot("What protection costs", _CAPTION, out.getvalue())


def _draw(axes: Any, points: list[tuple[Result, float]], theme: Theme) -> None:
    for level, words in ((LAYOUT_SSIM, "layout visible above"), (PICTURE_SSIM, "picture recognisable above")):
        axes.axhline(level, color=theme.muted, linestyle="--", linewidth=1)
        axes.annotate(words, (0.005, level + 0.01), color=theme.muted, fontsize=8)
    kinds = list(dict.fromkeys((result.cut, kind(result)) for result, _ in points))
    colours = (theme.adaptive, theme.local, theme.fixed, theme.bad, theme.link)
    for at, (cut, name) in enumerate(kinds):
        mine = sorted(
            ((agreement, result) for result, agreement in points if (result.cut, kind(result)) == (cut, name)),
            key=lambda one: one[1].per_value_epsilon or one[1].whole_input_epsilon or 0.0,
        )
        best = [result.best for _, result in mine]
        axes.errorbar(
            [agreement for agreement, _ in mine],
            [one.ssim for one in best],
            yerr=[[one.ssim - one.ssim_low for one in best], [one.ssim_high - one.ssim for one in best]],
            color=colours[at % len(colours)],
            marker=_MARKERS[at // len(colours) % len(_MARKERS)],
            linewidth=1.5,
            elinewidth=0.6,
            label=f"cut {cut}, {name}",
        )
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.01)
    axes.set_xlabel("agreement with the unsplit model")
    axes.set_ylabel("SSIM of the strongest attack")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))

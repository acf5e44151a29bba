"""The picture of ``split-model evaluate --plot``: a panel a cut, what is kept of the answers over the epsilon."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from split_model.evaluation import Evaluation, Mean, Row, Share
from split_model.prepare.drawing import drawn, plain

_COLOURS = {"uniform": "#9aa5b1", "rank": "#c2410c", "optimal": "#2f6fb0"}
_MARKS = {"uniform": "s", "rank": "^", "optimal": "o"}
_CLIP = "#4d7c4a"
_COLUMNS = 4


def plot_evaluation(evaluation: Evaluation, path: Path, *, title: str) -> None:
    """Draw it into a ``.png`` or ``.svg``; errors as `split_model.prepare.drawing.drawn`."""
    cuts = sorted({row.cut for row in evaluation.rows})
    across = min(_COLUMNS, len(cuts))
    down = math.ceil(len(cuts) / across)
    name, what = _measure(evaluation)
    with drawn(path, (1.2 + 3.1 * across, 1.0 + 2.6 * down)) as figure:
        panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for axes, cut in zip(panels.flat, cuts, strict=False):
            _draw(axes, [row for row in evaluation.rows if row.cut == cut], name)
            axes.set_title(f"cut {cut}", fontsize="medium")
        for axes in panels.flat[len(cuts) :]:
            axes.set_visible(False)
        for axes in panels[:, 0]:
            axes.set_ylabel(what)
        for axes in panels[-1]:
            axes.set_xlabel("mean per-value epsilon")
        panels.flat[0].legend(loc="lower right", fontsize="x-small")
        figure.suptitle(plain(f"{title}: {what} on {evaluation.data.samples} samples, 95 % intervals"))


def _measure(evaluation: Evaluation) -> tuple[str, str]:
    """Which figure is drawn: the accuracy, else the agreement, else the error of the outputs."""
    for name in ("accuracy", "agreement"):
        if any(getattr(row, name) is not None for row in evaluation.rows):
            return name, name
    return "output_error", "output error"


def _draw(axes: Any, rows: list[Row], name: str) -> None:
    for allocation, colour in _COLOURS.items():
        points = sorted(
            (row.spec.epsilon, figure)
            for row in rows
            if row.spec is not None and row.spec.allocation == allocation
            if (figure := _span(getattr(row, name))) is not None
        )
        if points:
            epsilons = [epsilon for epsilon, _ in points]
            values = [value for _, (value, _, _) in points]
            below = [value - low for _, (value, low, _) in points]
            above = [high - value for _, (value, _, high) in points]
            axes.errorbar(
                epsilons, values, yerr=(below, above), color=colour, marker=_MARKS[allocation], markersize=4,
                capsize=2, linewidth=1.2, label=allocation,
            )  # fmt: skip
    for row in rows:
        clip = _span(getattr(row, name)) if row.mechanism == "clip" else None
        if clip is not None:
            axes.axhline(clip[0], color=_CLIP, linestyle="--", linewidth=1, label="clip only")
    axes.set_xscale("log", base=2)
    epsilons = [row.spec.epsilon for row in rows if row.spec is not None]
    if epsilons:  # a single one has no width of its own
        axes.set_xlim(min(epsilons) / 1.4, max(epsilons) * 1.4)
    axes.xaxis.set_major_formatter("{x:g}")
    if name != "output_error":
        axes.set_ylim(-0.02, 1.02)
    axes.grid(visible=True, alpha=0.3)


def _span(figure: Share | Mean | None) -> tuple[float, float, float] | None:
    return None if figure is None else (figure.value, figure.low, figure.high)

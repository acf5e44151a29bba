"""The plot of ``split-model evaluate --plot``: the share of unchanged answers over the epsilon.

It has a panel for each cut's noise, over the per-value epsilon, and one for each cut's codebooks, over the
whole-input epsilon: the two units never share an axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from split_model.bundle.evaluation import Evaluation, Mean, Row, Share
from split_model.prepare.drawing import drawn, plain

_COLOURS = {"uniform": "#9aa5b1", "rank": "#c2410c", "optimal": "#2f6fb0"}
_BOOK_COLOURS = ("#2f6fb0", "#c2410c", "#4d7c4a", "#8a5fb5", "#9aa5b1")
_MARKS = {"uniform": "s", "rank": "^", "optimal": "o"}
_CLIP = "#4d7c4a"
_COLUMNS = 4

Points = list[tuple[float, Share | Mean]]


def plot_evaluation(evaluation: Evaluation, path: Path, *, title: str) -> None:
    """Draw the evaluation into a ``.png`` or ``.svg`` file; errors as in `split_model.prepare.drawing.drawn`."""
    name, what = _measure(evaluation)
    panels = _panels(evaluation.rows)
    across = min(_COLUMNS, len(panels))
    down = math.ceil(len(panels) / across)
    with drawn(path, (1.2 + 3.1 * across, 1.0 + 2.8 * down)) as figure:
        grid = figure.subplots(down, across, sharey=True, squeeze=False)
        for axes, (cut, rows) in zip(grid.flat, panels, strict=False):
            noise = rows[0].mechanism in ("clip", "noise")
            (_draw_noise if noise else _draw_codebooks)(axes, rows, name)
            axes.set_title(f"cut {cut}" if noise else f"cut {cut}, codebook", fontsize="medium")
            axes.set_xlabel("mean per-value epsilon" if noise else "whole-input epsilon", fontsize="small")
            _scale(axes, [float(_epsilon(row)) for row in rows if row.mechanism in ("noise", "codebook")])
            if name != "output_error":
                axes.set_ylim(-0.02, 1.02)
            axes.grid(visible=True, alpha=0.3)
            axes.legend(loc="best", fontsize="x-small")
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel(what)
        figure.suptitle(plain(f"{title}: {what} on {evaluation.data.samples} samples, 95 % intervals"))


def _panels(rows: Sequence[Row]) -> list[tuple[int, list[Row]]]:
    return [
        (cut, these)
        for cut in sorted({row.cut for row in rows})
        for mechanisms in (("clip", "noise"), ("lookup", "codebook"))
        if (these := [row for row in rows if row.cut == cut and row.mechanism in mechanisms])
    ]


def _measure(evaluation: Evaluation) -> tuple[str, str]:
    """The plotted figure: the accuracy, else the agreement, else the error of the outputs."""
    for name in ("accuracy", "agreement"):
        if any(getattr(row, name) is not None for row in evaluation.rows):
            return name, name
    return "output_error", "output error"


def _epsilon(row: Row) -> float:
    """The epsilon in the unit of the row's release."""
    if row.codebook is not None:
        return row.codebook.epsilon
    return 0.0 if row.spec is None else row.spec.epsilon


def _points(rows: Sequence[Row], name: str) -> Points:
    """Return epsilon and figure of the rows with a figure, sorted by epsilon."""
    found = [(_epsilon(row), figure) for row in rows if (figure := getattr(row, name)) is not None]
    return sorted(found, key=lambda point: point[0])


def _draw_noise(axes: Any, rows: Sequence[Row], name: str) -> None:
    for allocation, colour in _COLOURS.items():
        of_one = [row for row in rows if row.spec is not None and row.spec.allocation == allocation]
        _line(axes, _points(of_one, name), colour, _MARKS[allocation], allocation)
    for _, figure in _points([row for row in rows if row.mechanism == "clip"], name):
        axes.axhline(figure.value, color=_CLIP, linestyle="--", linewidth=1, label="clip only")


def _draw_codebooks(axes: Any, rows: Sequence[Row], name: str) -> None:
    sizes = sorted({(row.codebook.codewords, row.codebook.groups) for row in rows if row.codebook is not None})
    for number, (codewords, groups) in enumerate(sizes):
        colour = _BOOK_COLOURS[number % len(_BOOK_COLOURS)]
        of_one = [
            row
            for row in rows
            if row.codebook and (row.codebook.codewords, row.codebook.groups) == (codewords, groups)
        ]
        label = f"{codewords} codewords" + (f", {groups} groups" if groups > 1 else "")
        _line(axes, _points([row for row in of_one if row.mechanism == "codebook"], name), colour, "o", label)
        for _, figure in _points([row for row in of_one if row.mechanism == "lookup"], name):
            axes.axhline(figure.value, color=colour, linestyle=":", linewidth=1, label="its local lookup")


def _line(axes: Any, points: Points, colour: str, mark: str, label: str) -> None:
    if points:
        values = [figure.value for _, figure in points]
        below = [figure.value - figure.low for _, figure in points]
        above = [figure.high - figure.value for _, figure in points]
        axes.errorbar(
            [epsilon for epsilon, _ in points], values, yerr=(below, above), color=colour, marker=mark,
            markersize=4, capsize=2, linewidth=1.2, label=label,
        )  # fmt: skip


def _scale(axes: Any, epsilons: Sequence[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    if epsilons:  # a single one has no width of its own
        axes.set_xlim(min(epsilons) / 1.4, max(epsilons) * 1.4)

"""The plot of ``split-model inspect --plot``: the bytes at each cut, and the compute before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from split_model.prepare.drawing import drawn, plain
from split_model.prepare.inspection import CutRow, ModelReport

_DOTS, _FRONT, _OFFERED, _COMPUTE = "#9aa5b1", "#2f6fb0", "#c2410c", "#4d7c4a"


def plot_model(report: ModelReport, path: Path) -> None:
    """Draw the report's cuts into a file; `BackendError` without matplotlib, `OutputError` for a bad path."""
    with drawn(path, (9, 6)) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _draw_bytes(above, report)
        _draw_compute(below, report)
        above.set_title(plain(f"{Path(report.source).name}: where it can be cut"))


def _draw_bytes(axes: Any, report: ModelReport) -> None:
    """Bytes over op index; the Pareto front and the offered cuts stand out."""
    front = [cut for cut in report.cuts if not cut.dominated]
    chosen = [cut for cut in report.cuts if cut.offered]
    axes.plot(*_points(report.cuts), ".", color=_DOTS, label="legal cut")
    axes.plot(*_points(front), "-", color=_FRONT, drawstyle="steps-post", label="Pareto front")
    axes.plot(*_points(chosen), "o", color=_OFFERED, label="offered by default")
    for cut in chosen:
        axes.annotate(str(cut.index), (cut.index, cut.raw_bytes / 1000), (6, 4), textcoords="offset points")
    axes.set_yscale("log")
    axes.set_ylabel("raw kB across the cut")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="best", fontsize="small")


def _draw_compute(axes: Any, report: ModelReport) -> None:
    """The share of MACs before each cut."""
    indices = [cut.index for cut in report.cuts]
    shares = [100 * cut.head_share for cut in report.cuts]
    axes.fill_between(indices, shares, step="post", color=_COMPUTE, alpha=0.4)
    axes.set_ylim(0, 100)
    axes.set_ylabel("MACs in the head, %")
    axes.set_xlabel("cut: ops before this index are the head")
    axes.grid(visible=True, alpha=0.3)


def _points(cuts: tuple[CutRow, ...] | list[CutRow]) -> tuple[list[int], list[float]]:
    return [cut.index for cut in cuts], [cut.raw_bytes / 1000 for cut in cuts]

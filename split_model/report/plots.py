"""The report's plots, drawn by matplotlib without a display; each is SVG text for one theme."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from split_model.report.log import Frame, Policy, RunLog
from split_model.report.style import Theme

WIDTH_IN = 10.5
LOG_ABOVE = 6.0
"""Latencies are drawn on a logarithmic axis when the largest is this many times the median."""
MARKERS = {"offloaded": "o", "local": "s", "fallback": "v", "failed": "X"}
OUTCOME_TEXT = {
    "offloaded": "offloaded",
    "local": "local",
    "fallback": "fallback: finished locally in time",
    "failed": "failed",
}

Draw = Callable[[Figure, RunLog, Theme], None]


def svg(draw: Draw, log: RunLog, theme: Theme, height_in: float) -> str:
    """Return one plot as SVG, the same text for the same run."""
    out = io.StringIO()
    with drawing(theme, height_in) as figure:
        draw(figure, log, theme)
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


@contextlib.contextmanager
def drawing(theme: Theme, height_in: float) -> Iterator[Figure]:
    """An empty figure in the page's style, to draw on and to save within."""
    style: dict[Any, Any] = {
        "svg.hashsalt": "report",
        "text.parse_math": False,
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "text.color": theme.text,
        "axes.labelcolor": theme.muted,
        "axes.edgecolor": theme.line,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": theme.line,
        "grid.linewidth": 0.7,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "legend.frameon": False,
        "legend.fontsize": 9.5,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        figure.patch.set_alpha(0.0)
        yield figure


def link_and_split(figure: Figure, log: RunLog, theme: Theme) -> None:
    """True and estimated uplink over time, and beneath it the adaptive run's split point."""
    top, beneath = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    frames = _first(log, "adaptive")
    if log.link:
        at_s = [point.at_s for point in log.link]
        rate = [point.mbit_s for point in log.link]
        end_s = at_s[-1] + (at_s[-1] - at_s[-2] if len(at_s) > 1 else 0.5)
        top.stairs(rate, [*at_s, end_s], fill=True, color=theme.link, alpha=0.35, label="true capacity")
        top.stairs(rate, [*at_s, end_s], color=theme.link, linewidth=1.0)
    estimated = [(frame.at_s, frame.uplink_mbit_s) for frame in frames if frame.uplink_mbit_s is not None]
    if estimated:
        times_s, rates = zip(*estimated, strict=True)
        top.plot(times_s, rates, color=theme.adaptive, linewidth=1.8, label="the board's estimate")
    top.set_ylabel("uplink in Mbit/s")
    # A first estimate can be far off; the plot is of the link, so such a spike leaves the picture at the top.
    highest = max((point.mbit_s for point in log.link), default=0.0)
    top.set_ylim(0, 1.25 * highest if highest > 0.0 else None)
    _legend(top)
    _splits(beneath, frames, theme)
    beneath.set_xlabel("time in s")
    beneath.margins(x=0.01)
    top.margins(x=0.01)


def _splits(axes: Axes, frames: Sequence[Frame], theme: Theme) -> None:
    names = {
        frame.split: frame.split_label for frame in sorted(frames, key=lambda frame: frame.outcome == "fallback")
    }
    rows = {split: row for row, split in enumerate(sorted(names))}
    at_s = [frame.at_s for frame in frames]
    axes.step(at_s, [rows[frame.split] for frame in frames], where="post", color=theme.other, linewidth=1.2)
    for outcome, marker in MARKERS.items():
        chosen = [frame for frame in frames if frame.outcome == outcome]
        if chosen:
            axes.scatter(
                [frame.at_s for frame in chosen],
                [rows[frame.split] for frame in chosen],
                s=20,
                marker=marker,
                color=theme.of_outcome(outcome),
                label=OUTCOME_TEXT[outcome],
                zorder=3,
            )
    axes.set_yticks(list(rows.values()), [names[split] for split in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_ylabel("split point")
    _legend(axes)


def latency_over_time(figure: Figure, log: RunLog, theme: Theme) -> None:
    """Each frame's latency under each policy."""
    axes = figure.subplots()
    for policy, colour, emphasis in _styled(log, theme):
        frames = [frame for frame in log.frames[policy.name] if frame.outcome != "failed"]
        failed = [frame for frame in log.frames[policy.name] if frame.outcome == "failed"]
        at_s, latency_ms = [frame.at_s for frame in frames], [frame.latency_s * 1e3 for frame in frames]
        axes.plot(
            at_s,
            latency_ms,
            color=colour,
            linewidth=1.8 if emphasis else 0.9,
            marker="o" if emphasis else "",
            markersize=3,
            label=_label(policy, emphasis),
            zorder=3 if policy.role == "adaptive" else 2,
        )
        axes.scatter(
            [f.at_s for f in failed], [f.latency_s * 1e3 for f in failed], marker="X", color=theme.bad, s=26
        )
    _latency_axis(axes, log, axis="y")
    axes.set_ylabel("latency in ms")
    axes.set_xlabel("time in s")
    axes.margins(x=0.01)
    _policy_legend(axes, log, theme)


def distribution_and_bytes(figure: Figure, log: RunLog, theme: Theme) -> None:
    """Latency's cumulative distribution, and the bytes a frame sends, per policy."""
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for policy, colour, emphasis in _styled(log, theme):
        latency_ms = sorted(f.latency_s * 1e3 for f in log.frames[policy.name] if f.outcome != "failed")
        if latency_ms:
            share = np.arange(len(latency_ms) + 1) / len(latency_ms) * 100
            left.plot(
                [latency_ms[0], *latency_ms],
                share,
                drawstyle="steps-post",
                color=colour,
                linewidth=1.8 if emphasis else 0.9,
                label=_label(policy, emphasis),
                zorder=3 if policy.role == "adaptive" else 2,
            )
    _latency_axis(left, log, axis="x")
    left.set_ylim(0, 102)
    left.set_xlabel("latency in ms")
    left.set_ylabel("answered frames within it, %")
    _policy_legend(left, log, theme, columns=2)
    _bytes(right, log, theme)


def _bytes(axes: Axes, log: RunLog, theme: Theme) -> None:
    styled = sorted(_styled(log, theme), key=lambda item: log.policies.index(item[0]))
    kilobytes = [log.summaries[policy.name]["bytes_per_frame"] / 1e3 for policy, _, _ in styled]
    bars = axes.barh(
        [p.name for p, _, _ in styled], kilobytes, color=[colour for _, colour, _ in styled], height=0.65
    )
    axes.bar_label(bars, [f"{value:.1f}" for value in kilobytes], padding=3, color=theme.text, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("sent per frame in kB (mean)")


def _first(log: RunLog, role: str) -> list[Frame]:
    """Frames of the best policy of a role, or of any policy where that role did not run."""
    policies = log.of_role(role) or [policy for policy in log.policies if log.frames[policy.name]]
    return log.frames[policies[0].name]


def _styled(log: RunLog, theme: Theme) -> list[tuple[Policy, str, bool]]:
    """Policies with their colours, those to be read last (drawn on top): other fixed ones thin and grey."""
    fixed, adaptive = log.of_role("fixed"), log.of_role("adaptive")
    others = [*fixed[1:], *adaptive[1:]]
    emphasised = [(policy, theme.fixed) for policy in fixed[:1]]
    emphasised += [(policy, theme.local) for policy in log.of_role("local")]
    emphasised += [(policy, theme.adaptive) for policy in adaptive[:1]]
    return [(p, theme.other, False) for p in others] + [(p, colour, True) for p, colour in emphasised]


def _latency_axis(axes: Axes, log: RunLog, axis: str) -> None:
    values_s = [
        f.latency_s for frames in log.frames.values() for f in frames if f.outcome != "failed" and f.latency_s > 0
    ]
    if values_s and max(values_s) > LOG_ABOVE * float(np.median(values_s)):
        (axes.set_yscale if axis == "y" else axes.set_xscale)("log")
        which = axes.yaxis if axis == "y" else axes.xaxis
        which.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
        which.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
        which.set_minor_formatter(NullFormatter())
    elif axis == "y":
        axes.set_ylim(bottom=0)
    else:
        axes.set_xlim(left=0)


def _legend(axes: Axes, first: Sequence[str] = (), columns: int = 5) -> None:
    """Above the axes, the labels of ``first`` in their order before all others."""
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    labels = [*(label for label in first if label in handles), *(label for label in handles if label not in first)]
    if labels:
        axes.legend(
            [handles[label] for label in labels],
            labels,
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=columns,
            borderaxespad=0.1,
            handlelength=1.6,
        )


def _label(policy: Policy, emphasis: bool) -> str | None:
    """Name in the legend; the thin grey lines share one entry."""
    if not emphasis:
        return None
    return f"{policy.name} (best fixed)" if policy.role == "fixed" else policy.name


def _policy_legend(axes: Axes, log: RunLog, theme: Theme, columns: int = 5) -> None:
    styled = _styled(log, theme)
    if not all(emphasis for _, _, emphasis in styled):
        axes.plot([], [], color=theme.other, linewidth=0.9, label="other fixed cuts")
    first = [label for policy, _, emphasis in reversed(styled) if (label := _label(policy, emphasis))]
    _legend(axes, first, columns)

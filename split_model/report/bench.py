"""Draws a result of `edge-runtime bench --json` as one self-contained page, in the style of a run's report."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated, Any

import msgspec

from split_model.errors import BadInputError, MissingInputError
from split_model.report.figures import milliseconds
from split_model.report.page import Plot, plot, render_page
from split_model.report.plots import drawing
from split_model.report.style import LIGHT, Theme

NotNegative = Annotated[float, msgspec.Meta(ge=0)]
#: The format of the result that is understood; the device program counts it up when a key changes its meaning.
FORMAT = 1


class Spread(msgspec.Struct, frozen=True):
    """Percentiles in seconds."""

    p50_s: NotNegative
    p90_s: NotNegative
    p99_s: NotNegative


class Cut(msgspec.Struct, frozen=True):
    """One split as it was measured; absent figures are shown as such."""

    split: int
    name: str
    head: Spread
    release: Spread
    payload_bytes: Annotated[int, msgspec.Meta(ge=0)]
    allowed: bool = True
    tail_s: NotNegative | None = None
    rss_delta_bytes: int | None = None
    temperature_after_c: float | None = None
    joules_per_frame: NotNegative | None = None


class Link(msgspec.Struct, frozen=True):
    """The link, where one was measured."""

    address: str = "unknown"
    reachable: bool = False
    trouble: str = ""
    round_trip_s: NotNegative | None = None
    uplink_mbit_s: NotNegative | None = None


class Range(msgspec.Struct, frozen=True):
    """Between these uplinks this split is best."""

    from_mbit_s: NotNegative
    to_mbit_s: NotNegative | None
    split: int
    name: str


class Recommendation(msgspec.Struct, frozen=True):
    """Where to cut."""

    ranges: Annotated[list[Range], msgspec.Meta(min_length=1)]
    round_trip_s: NotNegative
    text: str
    objective: str = "latency"
    assumed: list[str] = []


class Bench(msgspec.Struct, frozen=True):
    """The file."""

    format: int
    bundle: str
    cuts: Annotated[list[Cut], msgspec.Meta(min_length=1)]
    recommendation: Recommendation
    link: Link | None = None
    machine: str = "unknown"
    software: str = "unknown"
    release: str = "unknown"
    slowdown: float = 1.0


def read_bench(path: Path) -> Bench:
    """Read a result. Raises MissingInputError and BadInputError, which name the fault."""
    try:
        bench = msgspec.json.decode(path.read_bytes(), type=Bench)
    except FileNotFoundError:
        raise MissingInputError(
            f"{path}: there is no such file", remedy="make one with 'edge-runtime bench --json'"
        ) from None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInputError(
            f"{path}: not a result of 'edge-runtime bench --json': {error}", remedy="measure again"
        ) from None
    if bench.format != FORMAT:
        raise BadInputError(
            f"{path}: format {bench.format}, this program reads {FORMAT}", remedy="update split-model"
        )
    return bench


def is_bench(path: Path) -> bool:
    """Whether a file is meant to be a benchmark's result and not a run's log: one JSON object with ``cuts``."""
    try:
        found = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return False
    return isinstance(found, dict) and "cuts" in found and "kind" not in found


def render(bench: Bench) -> str:
    """The page."""
    plots = [
        _plot("What a frame takes, by uplink", _latency, 3.9, bench, _caption(bench)),
        _plot(
            "What each split takes on this board",
            _stages,
            3.4,
            bench,
            "Medians; the thin line ends at the head's 99th percentile.",
        ),
    ]
    return render_page(
        "bench.html", f"Where to cut {bench.bundle}", bench=bench, plots=plots, headline=_headline(bench)
    )


def _headline(bench: Bench) -> str:
    """The recommendation as a sentence."""
    found = bench.recommendation
    if len(found.ranges) > 1:
        return f"Where to cut, by uplink: {found.text}."
    best = found.ranges[0].name
    what = "Answer every frame on the board" if best == "local" else f"Cut at {best}"
    others = "any cut" if best == "local" else "any other split"
    gain = "is faster" if found.objective == "latency" else "gives more answers a second"
    return f"{what}: that {gain} than {others}, at every uplink."


def _plot(heading: str, draw: Any, height_in: float, bench: Bench, caption: str) -> Plot:
    out = io.StringIO()
    with drawing(LIGHT, height_in) as figure:
        draw(figure, bench, LIGHT)
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return plot(heading, caption, out.getvalue())


def _caption(bench: Bench) -> str:
    found = bench.recommendation
    text = (
        "Median time of a frame: head, release, transfer, round trip "
        f"({milliseconds(found.round_trip_s)}) and tail."
    )
    text += " The shading shows where the best split changes." if len(found.ranges) > 1 else ""
    return text + (f" Assumed: {'; '.join(found.assumed)}." if found.assumed else "")


def _latency(figure: Any, bench: Bench, theme: Theme) -> None:
    """Latency over uplink for every split that is best somewhere, the others thin."""
    axes = figure.subplots()
    uplinks = [10 ** (step / 20) for step in range(-30, 41)]
    best = {part.split for part in bench.recommendation.ranges}
    colours = iter([theme.adaptive, theme.fixed, theme.link, theme.bad] * len(bench.cuts))
    for cut in bench.cuts:
        if not cut.allowed:
            continue
        fixed_s = cut.head.p50_s + cut.release.p50_s
        if cut.payload_bytes:
            fixed_s += bench.recommendation.round_trip_s + (cut.tail_s or 0.0)
        took_ms = [(fixed_s + cut.payload_bytes * 8e-6 / uplink) * 1e3 for uplink in uplinks]
        local = cut.payload_bytes == 0
        colour = theme.local if local else next(colours) if cut.split in best else theme.other
        axes.plot(uplinks, took_ms, color=colour, linewidth=1.8 if cut.split in best or local else 0.9,
                  label=cut.name if local else f"cut {cut.name}")  # fmt: skip
    for number, part in enumerate(bench.recommendation.ranges):
        if number % 2:
            axes.axvspan(part.from_mbit_s, part.to_mbit_s or uplinks[-1], color=theme.line, alpha=0.35, linewidth=0)
    if bench.link is not None and bench.link.uplink_mbit_s is not None:
        axes.axvline(bench.link.uplink_mbit_s, color=theme.muted, linestyle=":", label="this link")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(uplinks[0], uplinks[-1])
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("uplink in Mbit/s")
    axes.set_ylabel("a frame in ms")
    axes.legend(loc="upper right", ncols=3, fontsize="small")


def _stages(figure: Any, bench: Bench, theme: Theme) -> None:
    """Head and release of every split."""
    axes = figure.subplots()
    names = [cut.name if cut.payload_bytes == 0 else f"cut {cut.name}" for cut in bench.cuts]
    head_ms = [cut.head.p50_s * 1e3 for cut in bench.cuts]
    above_ms = [[0.0] * len(head_ms), [(cut.head.p99_s - cut.head.p50_s) * 1e3 for cut in bench.cuts]]
    axes.barh(names, head_ms, color=theme.adaptive, label="head", height=0.6)
    release_ms = [cut.release.p50_s * 1e3 for cut in bench.cuts]
    axes.barh(names, release_ms, left=head_ms, color=theme.local, label="release", height=0.6)
    axes.errorbar(head_ms, names, xerr=above_ms, fmt="none", ecolor=theme.text, linewidth=1)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("ms")
    axes.legend(loc="upper right")

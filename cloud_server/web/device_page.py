"""The page of one device: its report, and its last hour as charts and as a table. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from cloud_server.fleet.cells import COLUMNS, ago, cells, count, milliseconds
from cloud_server.fleet.rows import Row
from cloud_server.fleet.state import Known, Point
from cloud_server.web.rendering import render

_WIDTH, _HEIGHT, _LEFT = 640, 120, 64
#: Seconds between two points above which a gap is drawn.
_GAP_S = 120.0
_TABLE_POINTS = 20
_CHARTS: tuple[tuple[str, str, Callable[[Point], float | None]], ...] = (
    ("Uplink", "Mbit/s", lambda point: point.uplink_mbit_s),
    ("Split, an operation's index", "", lambda point: None if point.split is None else float(point.split)),
    ("Expected time of a frame", "ms", lambda point: _ms(point.expected_s)),
    ("Offload: request to answer, median", "ms", lambda point: _ms(point.offload_s)),
    ("Frames a second", "", lambda point: point.frames_per_s),
    ("Load", "", lambda point: point.load),
)


def page(one: Row, known: Known, *, now_s: float) -> str:
    """The whole page of a device."""
    columns = {column.name: column for column in COLUMNS}
    figures = []
    for key, value in live(one, known).items():
        name = key.removeprefix("device.")
        heading, meaning = (columns[name].heading, columns[name].title) if name in columns else (name, "")
        figures.append({"key": key, "heading": heading, "text": value, "meaning": meaning})
    moves = [
        (f"{ago(now_s - move.at_s)} ago", (_cut(move.split_from, known), _cut(move.split_to, known), move.why))
        for move in reversed(known.moves)
    ]
    points = [
        (f"{ago(now_s - point.at_s)} ago", [_number(of(point)) for _, _, of in _CHARTS])
        for point in reversed(known.points[-_TABLE_POINTS:])
    ]
    drawn = (_chart(name, unit, [(p.at_s, of(p)) for p in known.points], now_s) for name, unit, of in _CHARTS)
    return render(
        "device.html",
        one.name,
        at="/devices",
        live=f"page=device&device={one.name}",
        figures=figures,
        moves=moves,
        points=points,
        charts=[chart for chart in drawn if chart is not None],
        headings=[("When", ""), *((f"{name} {unit}".strip(), "") for name, unit, _ in _CHARTS)],
    )


def live(one: Row, known: Known) -> dict[str, str]:
    """The live figures."""
    found = {f"device.{name}": value for name, value in cells(one).items() if name != "device"}
    found |= {
        "device.Frames": count(one.frames_in, exact=one.exact),
        "device.Failed": count(one.failed, exact=one.exact),
        "device.Dropped": count(one.dropped, exact=one.exact),
        "device.Offload p95": milliseconds(one.offload_p95_s),
        "device.Round trip": milliseconds(one.rtt_s),
        "device.Budget": "–" if one.whole_input_epsilon is None else _budget(one),
        "device.Last heard": "–" if one.heard_ago_s is None else f"{ago(one.heard_ago_s)} ago",
        "device.Last report": "–" if one.report_ago_s is None else f"{ago(one.report_ago_s)} ago",
        "device.Up": "–" if one.uptime_s is None else ago(one.uptime_s),
        "device.Software": "–" if one.software is None else f"{one.software}, Python {one.python}, {one.backend}",
        "device.Calls its bundle": "–" if known.report is None else known.report.bundle_name,
        "device.Public key": one.public_key,
    }
    return found


def _budget(one: Row) -> str:
    return "unlimited" if one.whole_input_budget is None else f"{one.whole_input_budget:.6g} whole-input ε"


def _cut(split: int, known: Known) -> str:
    return "local" if known.report is not None and split == known.report.local else f"cut {split}"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _chart(
    name: str, unit: str, values: Sequence[tuple[float, float | None]], now_s: float
) -> dict[str, Any] | None:
    """A chart's lines in the coordinates of its drawing; None without data."""
    known = [(at_s, value) for at_s, value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    most = max(value for _, value in known) or 1.0
    least_s = min(values[0][0], now_s - 60.0)
    span_s = max(now_s - least_s, 1.0)

    def place(at_s: float, value: float) -> str:
        x = _LEFT + (_WIDTH - _LEFT) * (at_s - least_s) / span_s
        return f"{x:.1f},{_HEIGHT - 8 - (_HEIGHT - 24) * value / most:.1f}"

    lines: list[list[str]] = [[]]
    for number, (at_s, value) in enumerate(known):
        if number and at_s - known[number - 1][0] > _GAP_S:
            lines.append([])
        lines[-1].append(place(at_s, value))
    told = f"{known[-1][1]:.3g} {unit} now, at most {most:.3g} in the last {ago(span_s)}"
    return {
        "caption": f"{name} ({unit})" if unit else name,
        "label": f"{name}: {told}",
        "most": f"{most:.3g}",
        "lines": lines,
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _LEFT,
    }

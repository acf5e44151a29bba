"""One device: what it tells, and its last hour as charts and as a table. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from cloud_server.fleet.cells import COLUMNS, ago, cells, count, milliseconds
from cloud_server.fleet.rows import Row
from cloud_server.fleet.state import Known, Point
from cloud_server.web.layout import document, row, table, text

_WIDTH, _HEIGHT, _LEFT = 640, 120, 64
#: A longer time than this between two points is drawn as a gap, in seconds.
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
    shown = live(one, known)
    titles = {column.name: column.title for column in COLUMNS}
    figures = [
        row(
            next((c.heading for c in COLUMNS if c.name == name), name),
            value,
            titles.get(name, ""),
            live=(f"device.{name}",),
        )
        for name, value in ((key.removeprefix("device."), value) for key, value in shown.items())
    ]
    moves = [
        row(f"{ago(now_s - move.at_s)} ago", _cut(move.split_from, known), _cut(move.split_to, known), move.why)
        for move in reversed(known.moves)
    ]
    body = '<p><a href="/">All devices</a></p>'
    body += table("Now", [("What", ""), ("Value", ""), ("Meaning", "")], figures, name="device")
    body += "<h2>Why the split moved</h2>"
    headings = [("When", ""), ("From", ""), ("To", ""), ("Why", "In the device's words")]
    body += table("Moves of the split point", headings, moves) if moves else "<p>It has not moved yet.</p>"
    body += f"<h2>The last hour</h2>{_timeline(known.points, now_s)}"
    return document(one.name, body, at="/devices", live=f"page=device&device={one.name}")


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


def _timeline(points: Sequence[Point], now_s: float) -> str:
    if not points:
        return "<p>It has told nothing yet.</p>"
    charts = "".join(_chart(name, unit, [(p.at_s, of(p)) for p in points], now_s) for name, unit, of in _CHARTS)
    rows = [
        row(
            f"{ago(now_s - point.at_s)} ago",
            *("–" if (value := of(point)) is None else f"{value:.3g}" for _, _, of in _CHARTS),
        )
        for point in reversed(points[-_TABLE_POINTS:])
    ]
    headings = [("When", ""), *((f"{name} {unit}".strip(), "") for name, unit, _ in _CHARTS)]
    numbers = table("The last reports in numbers", headings, rows)
    return f'<div class="charts">{charts}</div><details><summary>In numbers</summary>{numbers}</details>'


def _chart(name: str, unit: str, values: Sequence[tuple[float, float | None]], now_s: float) -> str:
    known = [(at_s, value) for at_s, value in values if value is not None and math.isfinite(value)]
    if not known:
        return ""
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
    drawn = "".join(
        f'<polyline points="{" ".join(line)}"/>' if len(line) > 1
        else f'<circle cx="{line[0].partition(",")[0]}" cy="{line[0].partition(",")[2]}" r="2"/>'
        for line in lines
    )  # fmt: skip
    last = known[-1][1]
    label = f"{name}: {last:.3g} {unit} now, at most {most:.3g} in the last {ago(span_s)}"
    return (
        f"<figure><figcaption>{text(f'{name} ({unit})' if unit else name)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(label)}">'
        f'<text x="{_LEFT - 6}" y="20" text-anchor="end">{most:.3g}</text>'
        f'<text x="{_LEFT - 6}" y="{_HEIGHT - 4}" text-anchor="end">0</text>'
        f'<path class="axis" d="M{_LEFT} 12V{_HEIGHT - 8}H{_WIDTH}"/>{drawn}</svg></figure>'
    )

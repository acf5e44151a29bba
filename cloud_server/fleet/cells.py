"""Formats a row of the fleet's table, for the terminal and the page. Pure."""

from __future__ import annotations

from typing import NamedTuple

from cloud_server.fleet.rows import Row


class Column(NamedTuple):
    """A column: its name in HTML, its heading, and its explanation."""

    name: str
    heading: str
    title: str


#: The page's columns; the terminal has those that fit.
COLUMNS = (
    Column("device", "Device", "Its name in the allow-list"),
    Column("state", "State", "up, silent (for how long), or never seen since the server's start"),
    Column("alerts", "Alerts", "What needs attention"),
    Column("bundle", "Bundle", "The model that it runs"),
    Column("split", "Split", "The current cut, or local: all on the board"),
    Column("there", "There", "Frames that the server answered, since the device's start"),
    Column("here", "Here", "Frames finished on the board; ≥ where the number is rounded down"),
    Column("rate", "Frames/s", "Frames per second, only those the server answered unless the device reports all"),
    Column("expected", "Expected", "The predicted time of a frame at this split"),
    Column("answer", "Offload", "Median time from a request to its answer"),
    Column("uplink", "Uplink", "As the device estimates it"),
    Column("load", "Load", "How much longer work takes than on an idle board"),
    Column("heat", "Heat", "The processor's temperature, in steps of 5 °C"),
    Column("spent", "ε spent", "Whole-input ε of the device's life, and the largest per-value ε of this run"),
    Column("left", "ε left", "Of the whole-input budget"),
    Column("agreement", "Agreement", "Expected agreement with the unsplit model; at least, one-sided 80 %"),
)

_ALERTS = {
    "source": "source fails",
    "sink": "sink fails",
    "ledger": "ledger fails",
    "budget": "budget spent",
    "accuracy": "accuracy floor",
    "throttled": "throttled",
    "stuck": "stuck",
    "reload": "reload refused",
}


def cells(row: Row) -> dict[str, str]:
    """Cell texts by column name; ``–`` if unknown."""
    return {
        "device": row.name,
        "state": state_text(row),
        "bundle": _bundle(row),
        "split": split_text(row),
        "there": count(row.there, exact=True),
        "here": count(row.here, exact=row.exact),
        "rate": "–" if row.frames_per_s is None else f"{row.frames_per_s:.3g}",
        "expected": milliseconds(row.expected_s),
        "answer": milliseconds(row.offload_s),
        "uplink": "–" if row.uplink_mbit_s is None else f"{row.uplink_mbit_s:.3g} Mbit/s",
        "load": "–" if row.load is None else f"{row.load:.2f}",
        "heat": _heat(row),
        "spent": _spent(row),
        "left": _left(row),
        "agreement": _agreement(row),
        "alerts": alerts_text(row),
    }


def state_text(row: Row) -> str:
    """``up``, ``silent 3 min`` or ``never seen``."""
    if row.condition == "never":
        return "never seen"
    if row.condition == "silent":
        return f"silent {ago(row.heard_ago_s or 0.0)}"
    if row.report_ago_s is None:
        return "up, no reports"
    return f"up, reports stopped {ago(row.report_ago_s)} ago" if row.stale else "up"


def split_text(row: Row) -> str:
    """``cut 20`` or ``local``."""
    if row.split is None:
        return "–"
    return "local" if row.local else f"cut {row.split}"


def alerts_text(row: Row) -> str:
    """All alerts in one line, or ``–``."""
    found = [_ALERTS[alert] for alert in row.alerts]
    if row.unprotected_releases:
        found.append("unprotected")
    if row.identity is not None and not row.hosted:
        found.append("bundle not hosted")
    return ", ".join(found) or "–"


def milliseconds(seconds: float | None) -> str:
    """A time as ``34 ms``."""
    if seconds is None:
        return "–"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1.0 else f"{seconds:.3g} s"


def ago(seconds: float) -> str:
    """A span as ``12 s``, ``3 min``, ``5 h`` or ``2 d``."""
    for unit_s, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def count(value: int | None, *, exact: bool) -> str:
    """A number of frames; ``≥ 768`` where it is rounded down."""
    if value is None:
        return "–"
    return f"{value}" if exact or value == 0 else f"≥ {value}"


def quantity(value: float) -> str:
    """A number with three digits, as ``8.19e+05`` only beyond a million."""
    return f"{value:.0f}" if 1e3 <= value < 1e6 else f"{value:.3g}"


def _bundle(row: Row) -> str:
    if row.identity is None:
        return "–"
    return row.bundle or "–" if row.hosted else f"other ({row.identity[:8]})"


def _heat(row: Row) -> str:
    return "–" if row.temperature_c is None else f"{row.temperature_c} °C"


def _spent(row: Row) -> str:
    if row.whole_input_epsilon is None:
        return "–"
    text = quantity(row.whole_input_epsilon)
    per_value = row.per_value_epsilon_max
    return f"{text} ({per_value:.3g} a value)" if per_value else text


def _left(row: Row) -> str:
    if row.whole_input_epsilon is None:
        return "–"
    return "unlimited" if row.whole_input_epsilon_left is None else quantity(row.whole_input_epsilon_left)


def _agreement(row: Row) -> str:
    if row.agreement is None:
        return "–"
    return f"{row.agreement:.2f}" + (f" (≥ {row.agreement_bound:.2f})" if row.agreement_bound is not None else "")

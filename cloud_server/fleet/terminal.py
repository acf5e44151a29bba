"""Formats the fleet's table for a terminal of 80 columns. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cloud_server.fleet.cells import alerts_text, cells
from cloud_server.fleet.rows import Row
from split_model.service.terminal_text import counted

_WIDTH = 80
#: The columns that fit into 80 characters: name, heading, width, and whether it is right-aligned.
_COLUMNS = (
    ("device", "device", 13, False),
    ("state", "state", 16, False),
    ("split", "split", 7, False),
    ("there", "there", 7, True),
    ("here", "here", 8, True),
    ("answer", "offload", 7, True),
    ("uplink", "Mbit/s", 6, True),
    ("spent", "ε spent", 8, True),
)


def as_text(rows: Sequence[Row]) -> str:
    """One line for each device, a second one for its alerts, and a summary."""
    if not rows:
        return "no device is allowed yet: cloud-server devices allow NAME KEY"
    lines = [" ".join(_fit(heading, width, right=right) for _, heading, width, right in _COLUMNS).rstrip()]
    for row in rows:
        found = cells(row) | _short(row)
        lines.append(" ".join(_fit(found[name], width, right=right) for name, _, width, right in _COLUMNS).rstrip())
        if (alerts := alerts_text(row)) != "–":
            lines.append(_cut(f"  ! {alerts}", _WIDTH))
    up = sum(row.condition == "up" for row in rows)
    silent = sum(row.condition == "silent" for row in rows)
    lines.append(_summary(len(rows), up=up, silent=silent))
    return "\n".join(lines)


def _summary(count: int, *, up: int, silent: int) -> str:
    told = ((up, "up"), (silent, "silent"), (count - up - silent, "never seen"))
    return f"{counted(count, 'device')}: " + ", ".join(f"{number} {word}" for number, word in told if number)


def _short(row: Row) -> dict[str, str]:
    state = "up, no reports" if row.stale else cells(row)["state"]
    uplink = "–" if row.uplink_mbit_s is None else f"{row.uplink_mbit_s:.3g}"
    return {"uplink": uplink, "spent": cells(row)["spent"].partition(" ")[0], "state": state}


def _fit(text: str, width: int, *, right: bool) -> str:
    shown = _cut(text, width)
    return shown.rjust(width) if right else shown.ljust(width)


def _cut(text: str, width: int) -> str:
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown if len(shown) <= width else shown[: width - 1] + "…"

"""The closing line of claims: a value, its goal, and whether it holds."""

from __future__ import annotations

from typing import Any

Claim = dict[str, Any]
Details = dict[str, Any]
Part = tuple[list[Claim], Details]


def claim(name: str, value: float, goal: float, *, at_least: bool = False) -> Claim:
    """Return one claim of the list: its name, its value, its goal and whether it holds."""
    holds = value >= goal if at_least else value <= goal
    return {"name": name, "value": round(value, 4), "goal": goal, "holds": holds}

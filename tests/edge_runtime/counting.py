"""The invariant of a device's counters."""

from __future__ import annotations

from edge_runtime.loop.counters import OUTCOMES, Counters


def adds_up(counters: Counters) -> bool:
    """Whether every frame that was accepted has had exactly one end."""
    told = counters.as_dict()
    return told["frames_in"] == sum(told[outcome] for outcome in OUTCOMES)

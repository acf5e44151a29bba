"""Parses a time span of a command line: 90s, 30m, 24h, 7d."""

from __future__ import annotations

import re

from split_model.errors import UsageError

_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])")
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def span_s(option: str, text: str) -> float:
    """Seconds of a span; ``option`` begins the `UsageError` for an invalid text."""
    matched = _SPAN.fullmatch(text)
    if matched is None or float(matched[1]) == 0:
        raise UsageError(f"{option} {text}", remedy="give a number and s, m, h or d, as 30m, 24h or 7d")
    return float(matched[1]) * _UNITS_S[matched[2]]

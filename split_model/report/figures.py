"""Figures as people read them: each function takes a value in SI units and returns text with its unit."""

from __future__ import annotations

import math

UNKNOWN = "unknown"


def milliseconds(seconds: float | None) -> str:
    """Return a duration in seconds as milliseconds."""
    if seconds is None:
        return "–"
    if 0.0 < seconds < 0.00095:
        return f"{seconds * 1e3:.2f} ms"
    return f"{seconds * 1e3:,.0f} ms" if seconds >= 0.0095 else f"{seconds * 1e3:.1f} ms"


def kilobytes(size: float | None) -> str:
    """Return a number of bytes as kB (1000 bytes)."""
    if size is None:
        return "–"
    return f"{size / 1e3:.2f} kB" if 0 < size < 95 else f"{size / 1e3:,.1f} kB"


def percent(share: float | None) -> str:
    """Return a share as whole per cent."""
    return "–" if share is None else f"{share * 100:.0f} %"


def epsilon(value: float | None) -> str:
    """Return an ε, rounded up, since a guarantee must not look better than it is."""
    if value is None:
        return UNKNOWN
    return f"{math.ceil(value):,}" if value >= 100 else f"{math.ceil(round(value * 100, 6)) / 100:g}"


def epsilon_range(values: list[float | None]) -> str:
    """Return the ε of several cuts as one figure or as a range."""
    known = [value for value in values if value is not None]
    if not known:
        return UNKNOWN
    low, high = epsilon(min(known)), epsilon(max(known))
    return low if low == high else f"{low} – {high}"


def count(value: int | None) -> str:
    """Return a whole number with its thousands apart."""
    return UNKNOWN if value is None else f"{value:,}"


def compared(ours: float | None, theirs: float | None) -> str:
    """Return how much less (or more) ours is than theirs, in per cent."""
    if ours is None or not theirs:
        return "not comparable with"
    change = ours / theirs - 1
    if round(abs(change) * 100) == 0:
        return "the same as"
    return f"{abs(change) * 100:.0f} % {'less' if change < 0 else 'more'} than"


def in_unit(value: float | None, factor: float, unit: str) -> str:
    """Return a value times ``factor`` with three digits and its unit."""
    return "–" if value is None else f"{value * factor:.3g} {unit}"

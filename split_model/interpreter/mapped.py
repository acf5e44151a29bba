"""Finds the mappings of a file in this process's memory. Linux only; finds none on other systems."""

from __future__ import annotations

import os
from pathlib import Path

_MAPS = Path("/proc/self/maps")

#: The first address of a mapping, and the one after its last.
Range = tuple[int, int]


def mapped_at(file: Path) -> frozenset[Range]:
    """All present mappings of a file in this process, from /proc/self/maps; see proc(5)."""
    path = os.fsencode(os.path.realpath(file))
    try:
        with _MAPS.open("rb") as lines:  # line by line: there are hundreds, and memory is shortest at this moment
            fields = [line.split(maxsplit=5) for line in lines if line.rstrip(b"\n").endswith(path)]
    except OSError:  # not Linux, or hidden
        return frozenset()
    return frozenset(_range(parts[0]) for parts in fields if parts[-1].rstrip(b"\n") == path)


def _range(text: bytes) -> Range:
    start, _, end = text.partition(b"-")
    return int(start, 16), int(end, 16)

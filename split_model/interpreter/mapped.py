"""Where a file lies in this process's memory. Linux's alone; nowhere, as far as this can tell, on other systems."""

from __future__ import annotations

import os
from pathlib import Path

_MAPS = Path("/proc/self/maps")

#: The first address of a mapping, and the one behind its last.
Range = tuple[int, int]


def mapped_at(file: Path) -> frozenset[Range]:
    """Every mapping of a file that there is now, whoever made it; see proc(5) for what is read."""
    try:
        lines = _MAPS.read_bytes().splitlines()
    except OSError:  # not Linux, or hidden
        return frozenset()
    path = os.fsencode(os.path.realpath(file))
    fields = (line.split(maxsplit=5) for line in lines if line.endswith(path))
    return frozenset(_range(parts[0]) for parts in fields if parts[-1] == path)


def _range(text: bytes) -> Range:
    start, _, end = text.partition(b"-")
    return int(start, 16), int(end, 16)

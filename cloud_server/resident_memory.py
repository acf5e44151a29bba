"""Measures the real memory of this process: its proportional set size. Linux only."""

from __future__ import annotations

import ctypes
from pathlib import Path

_ROLLUP = Path("/proc/self/smaps_rollup")


def pss_bytes() -> int | None:
    """Proportional set size in bytes: private pages, and this process's part of shared ones. None if unknown."""
    try:
        lines = _ROLLUP.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), None)


def give_back() -> None:
    """Return free memory of the allocator to the system; only for glibc, which keeps much of it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

"""How much memory this process really has: its proportional set size, as the kernel tells. Linux only."""

from __future__ import annotations

import ctypes
from pathlib import Path

_ROLLUP = Path("/proc/self/smaps_rollup")


def pss_bytes() -> int | None:
    """Proportional set size: private pages, and of shared ones this process's part. None where it is not told."""
    try:
        lines = _ROLLUP.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), None)


def give_back() -> None:
    """Return what the allocator has free to the system, where it is glibc's, which keeps much of it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

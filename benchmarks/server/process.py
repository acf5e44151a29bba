"""Processor time and memory of processes, from the kernel. Linux only."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_TICKS_A_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pids: Iterable[int]) -> float:
    """Return the processor time of these processes so far, user and system, with their reaped children."""
    return sum(_ticks(pid) for pid in pids) / _TICKS_A_S


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15])


def pss_mb(pids: Iterable[int]) -> float:
    """Proportional set size of these processes in 10^6 bytes: pages that they share are counted once."""
    return sum(_pss_kib(pid) for pid in pids) * 1024 / 1e6


def _pss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise ValueError(f"/proc/{pid}/smaps_rollup has no Pss")

"""Reads the kernel's CPU and memory counts of the machine and of this program (/proc, see proc(5)).

Two readers need a few of these numbers several times a second. psutil has them too, but adds a megabyte of memory.
"""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")
#: Fields of the line "cpu"; guest time, behind those that are counted, is part of user time already.
_IDLE, _IOWAIT, _COUNTED = 3, 4, 8
_RESIDENT = 1  # a field of statm


def cpu_seconds(proc: Path = PROC) -> tuple[float, float] | None:
    """Busy seconds and total seconds of all CPUs since boot; None if the kernel does not report them."""
    try:
        with (proc / "stat").open("rb") as lines:
            name, *counts = lines.readline().split()
        ticks = [int(count) for count in counts[:_COUNTED]]
    except (OSError, ValueError):
        return None
    if name != b"cpu" or len(ticks) <= _IOWAIT:
        return None
    per_s = os.sysconf("SC_CLK_TCK")
    return (sum(ticks) - ticks[_IDLE] - ticks[_IOWAIT]) / per_s, sum(ticks) / per_s


def busy_share(before: tuple[float, float] | None, now: tuple[float, float] | None) -> float | None:
    """The share of all CPUs, 0 to 1, in use between two results of `cpu_seconds`; None where that is not known."""
    if before is None or now is None or now[1] <= before[1]:
        return None
    return min(1.0, max(0.0, (now[0] - before[0]) / (now[1] - before[1])))


def memory_bytes(proc: Path = PROC) -> tuple[int | None, int | None]:
    """Available and total memory in bytes; None if the kernel does not report them."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return None, None
    found = {name: fields for name, _, fields in (line.partition(":") for line in lines)}
    return _kilobytes(found.get("MemAvailable", "")), _kilobytes(found.get("MemTotal", ""))


def resident_bytes(proc: Path = PROC) -> int | None:
    """Resident memory of this program (RSS) in bytes; None if the kernel does not report it."""
    try:
        return int((proc / "self" / "statm").read_bytes().split()[_RESIDENT]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _kilobytes(fields: str) -> int | None:
    number, _, unit = fields.strip().partition(" ")
    return int(number) * 1024 if number.isdecimal() and unit == "kB" else None

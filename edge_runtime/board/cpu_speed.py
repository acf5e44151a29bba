"""Measures the processor's speed by a fixed piece of work and by its clock's limit, never by work on a frame."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edge_runtime.board.board import Board, RealBoard
from edge_runtime.board.cpu_load import Speed, Spin
from edge_runtime.board.cpu_quota import usable_cpus
from edge_runtime.board.throttling import glob, number

_SYSFS = Path("/sys")
#: A spin takes the checksum of this block 30 times: about a millisecond on a small board. The block fits into the
#: first cache, and the checksum releases Python's lock. A key derivation of `hashlib` would load a megabyte of
#: OpenSSL.
_BLOCK, _ROUNDS = bytes(range(256)) * 128, 30
_SPINS_TO_PROFILE = 10
#: A settled spin is the fastest of this many, made while the governor asks for the clock's limit, or after it has
#: had this many seconds to do so.
_SETTLED_SPINS = 4
_SETTLED_WITHIN_S = 0.03
#: Clocks are rounded.
_AT_LIMIT = 0.95


@dataclass(frozen=True)
class Clock:
    """Clock of the slowest core in MHz: its limit, and its present or requested rate; None if unknown."""

    limit_mhz: float
    now_mhz: float | None = None

    @property
    def at_limit(self) -> bool:
        """Whether the governor asks for the clock's limit."""
        return self.now_mhz is not None and self.now_mhz >= _AT_LIMIT * self.limit_mhz


def spin() -> Spin:
    """Time a fixed piece of work."""
    wall_s, cpu_s = time.perf_counter(), time.thread_time()
    for _ in range(_ROUNDS):
        zlib.crc32(_BLOCK)
    return Spin(time.perf_counter() - wall_s, time.thread_time() - cpu_s)


def settled_spin(make_spin: Callable[[], Spin], clock: Callable[[], Clock | None]) -> Spin:
    """The fastest of some spins at the clock's limit.

    A governor lowers the clock while there is little to do, so a single spin would show how much work the last
    frame was. If the clock does not reach its limit in 30 ms, its present rate counts as the processor's speed.
    """
    spins = [make_spin() for _ in range(_SETTLED_SPINS)]
    while sum(one.wall_s for one in spins) < _SETTLED_WITHIN_S and not ((now := clock()) is None or now.at_limit):
        spins.append(make_spin())
    return replace(min(spins[-_SETTLED_SPINS:], key=lambda one: one.cpu_s), settled=True)


def read_clock(sysfs: Path = _SYSFS) -> Clock | None:
    """Read the clock of the slowest core; None if the kernel does not report it. ``sysfs``: its mount point."""
    limits, nows = (
        [khz / 1e3 for path in glob(sysfs, f"devices/system/cpu/cpu[0-9]*/cpufreq/{name}")
         if (khz := number(path)) is not None and khz > 0]
        for name in ("scaling_max_freq", "scaling_cur_freq")
    )  # fmt: skip
    return Clock(min(limits), min(nows, default=None)) if limits else None


def speed_of(board: Board, *, clock: Callable[[], Clock | None] = read_clock) -> Speed:
    """Measure the processor's speed for a profile: the fastest of some spins, the clock's limit, the quota.

    It is unknown on an emulated board, as the machine's speed is not that of the board.
    """
    if not isinstance(board, RealBoard):
        return Speed()
    known = clock()
    spins = [settled_spin(spin, clock) if known else spin() for _ in range(1 if known else _SPINS_TO_PROFILE)]
    return Speed(min(one.cpu_s for one in spins), known.limit_mhz if known else None, usable_cpus())

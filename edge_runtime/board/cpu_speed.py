"""How fast the processor is, told by a fixed piece of work and by its clock's limit; never by work on a frame."""

from __future__ import annotations

import contextlib
import time
import zlib
from pathlib import Path

from edge_runtime.board.board import Board, RealBoard
from edge_runtime.board.cpu_load import Speed, Spin

_CPUS = Path("/sys/devices/system/cpu")
#: A spin takes the checksum of this block 30 times: about a millisecond on a small board. The block fits into the
#: first cache, and the checksum releases Python's lock. A key derivation of `hashlib` would load a megabyte of
#: OpenSSL.
_BLOCK, _ROUNDS = bytes(range(256)) * 128, 30
_SPINS_TO_PROFILE = 10


def spin() -> Spin:
    """A fixed piece of work, timed."""
    wall_s, cpu_s = time.perf_counter(), time.thread_time()
    for _ in range(_ROUNDS):
        zlib.crc32(_BLOCK)
    return Spin(time.perf_counter() - wall_s, time.thread_time() - cpu_s)


def clock_limit_mhz(cpus: Path = _CPUS) -> float | None:
    """What the slowest core may reach now, heat and power considered; None where the kernel does not tell.

    Not the clock at this moment: that goes down while there is little to do, so it would tell how much work a frame
    was.
    """
    limits = []
    for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_max_freq"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(float(path.read_text(encoding="ascii")) / 1e3)
    return min((limit for limit in limits if limit > 0), default=None)


def speed_of(board: Board) -> Speed:
    """The processor's speed, to be kept with a profile: the fastest of some spins, and the clock's limit.

    Unknown on an emulated board: the machine's is not its own.
    """
    if not isinstance(board, RealBoard):
        return Speed()
    return Speed(min(spin().cpu_s for _ in range(_SPINS_TO_PROFILE)), clock_limit_mhz())

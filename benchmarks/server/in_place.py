"""A server whose tails' CPU time is counted where they run: between other threads, on caches as those leave them.

python -m benchmarks.server.in_place FILE MODULE ARGUMENTS...     runs a module as a program

The bare loop has a core to itself. What a tail takes more in a server, gRPC's as well, is no work of that server.
"""

from __future__ import annotations

import mmap
import runpy
import struct
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from split_model.arrays import Array
from split_model.interpreter.backend import Interpreter

_SECONDS = struct.Struct("=d")


def tail_s(counter: Path) -> float:
    """CPU seconds that all tails of a program have taken so far."""
    (seconds,) = _SECONDS.unpack(counter.read_bytes()[: _SECONDS.size])
    return float(seconds)


def count(counter: Path) -> None:
    """Add the CPU time of every run of an interpreter, from now on, to a file."""
    counter.write_bytes(bytes(_SECONDS.size))
    with counter.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), _SECONDS.size)
    lock, run = threading.Lock(), Interpreter.run
    total_s = 0.0

    def counted(self: Interpreter, tensors: Sequence[Array]) -> list[Array]:
        nonlocal total_s
        began_s = time.thread_time()
        outputs = run(self, tensors)
        used_s = time.thread_time() - began_s
        with lock:
            total_s += used_s
            _SECONDS.pack_into(shared, 0, total_s)
        return outputs

    Interpreter.run = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    count(Path(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

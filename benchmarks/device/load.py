"""How soon the estimate of the load moves: by a CPU hog, and by a processor that goes slower.

Each is one measurement in a process of its own, see `worker`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.board.board import RealBoard
from edge_runtime.board.cpu_load import LoadEstimator, Spin
from edge_runtime.board.cpu_speed import clock_limit_mhz, speed_of, spin
from edge_runtime.board.load_watch import LoadReader, LoadWatch
from split_model.bundle import Bundle
from split_model.interpreter import open_interpreter

#: The estimate has moved when it is so many times what it was.
_NOTICED = 1.4
_SETTLE_S, _PATIENCE_S = 2.0, 10.0


def inputs(bundle: Bundle) -> list[NDArray[Any]]:
    """Random inputs of a bundle."""
    return [np.random.default_rng(0).random(spec.shape).astype(spec.dtype) for spec in bundle.manifest.inputs]


def hog(root: str) -> dict[str, Any]:
    """A busy process on the very same core, while frames are worked on one after another.

    Where others are on it already, so many that the load is doubled.
    """
    core = _pin()
    busy = f"import os; os.sched_setaffinity(0, {{{core}}}); print(flush=True)\nwhile True: pass"
    with _loaded(root) as load, contextlib.ExitStack() as closing:
        before = load.factor
        hogs = round(before)
        for _ in range(hogs):
            other = closing.enter_context(subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE))
            closing.callback(other.kill)
            assert other.stdout is not None
            other.stdout.readline()
        seconds = _seconds_until(lambda: load.factor >= _NOTICED * before)
        return {"seconds": seconds, "hogs": hogs, "before": before, "after": load.factor}


def clock(root: str) -> dict[str, Any]:
    """The clock's limit goes down to a half; its reader is handed in, since a virtual machine has none."""
    _pin()
    limit_mhz = [1500.0]
    with _loaded(root, clock_mhz=lambda: limit_mhz[0]) as load:
        before = load.factor
        limit_mhz[0] /= 2
        seconds = _seconds_until(lambda: load.factor >= _NOTICED * before)
        return {"seconds": seconds, "before": before, "after": load.factor}


def slow(root: str) -> dict[str, Any]:
    """The spin takes twice its CPU time, on a board that does not tell its clock: made so, as above."""
    _pin()
    factor = [1.0]

    def slowed() -> Spin:
        made = spin()
        return Spin(made.wall_s * factor[0], made.cpu_s * factor[0])

    with _loaded(root, clock_mhz=lambda: None, make_spin=slowed) as load:
        before = load.factor
        factor[0] = 2.0
        seconds = _seconds_until(lambda: load.factor >= _NOTICED * before)
        return {"seconds": seconds, "before": before, "after": load.factor}


def _pin() -> int:
    """Keep this process to one core: its number."""
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


@contextlib.contextmanager
def _loaded(
    root: str, *, clock_mhz: Callable[[], float | None] = clock_limit_mhz, make_spin: Callable[[], Spin] = spin
) -> Iterator[LoadEstimator]:
    """The estimate of the load as the program makes it, while a thread works on one frame after another."""
    bundle, board = Bundle.open(Path(root)), RealBoard()
    interpreter, tensors = open_interpreter(bundle.path(bundle.manifest.model)), inputs(bundle)
    over = threading.Event()

    def frames() -> None:
        while not over.wait(0.002):
            board.run(lambda: interpreter.run(tensors))

    load = LoadEstimator(speed_of(board), cpus=1)
    watch, working = (
        LoadWatch(LoadReader(board, clock_mhz=clock_mhz, make_spin=make_spin), load),
        threading.Thread(target=frames),
    )
    working.start()
    watch.start()
    time.sleep(_SETTLE_S)
    try:
        yield load
    finally:
        over.set()
        watch.stop()
        working.join()


def _seconds_until(noticed: Callable[[], bool]) -> float:
    """How long it takes; at most ten seconds."""
    started_s = time.monotonic()
    while not noticed() and time.monotonic() - started_s < _PATIENCE_S:
        time.sleep(0.01)
    return time.monotonic() - started_s

"""How soon the load estimate follows a CPU hog, and a processor that becomes slower.

Each is one measurement in a separate process, see `worker`.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.privacy import pow_model
from edge_runtime.board.board import RealBoard
from edge_runtime.board.cpu_load import LoadEstimator, Spin
from edge_runtime.board.cpu_quota import allowed_cpus
from edge_runtime.board.cpu_speed import Clock, read_clock, speed_of, spin
from edge_runtime.board.load_watch import LoadReader, LoadWatch
from split_model.bundle import Bundle
from split_model.interpreter import Interpreter, open_interpreter

#: The estimate counts as moved once it is this many times its earlier value.
_NOTICED = 1.4
_SETTLE_S, _PATIENCE_S = 2.0, 10.0
_TRIALS, _MOST_HOGS = 5, 12
#: It is busy at once, as a Python would not be. A child's child: processes that the program starts itself are none.
_HOG = ("timeout", "60", "/bin/sh", "-c", "while :; do :; done")
#: Of the short model: about a millisecond on a PC.
_SHORT_POWS = 20


def inputs(bundle: Bundle) -> list[NDArray[Any]]:
    """Return random inputs for a bundle's model."""
    return [np.random.default_rng(0).random(spec.shape).astype(spec.dtype) for spec in bundle.manifest.inputs]


def hog(root: str) -> dict[str, Any]:
    """Start a busy process for each CPU while frames run one after another; the worst of some trials.

    If other programs use the CPUs already, enough busy processes are started to double the load.
    """
    return _hogged(*_of_bundle(root))


def hog_short(_: str) -> dict[str, Any]:
    """The same with a model of a millisecond, which is shorter than a time slice."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "short.tflite"
        model.write_bytes(pow_model.build(_SHORT_POWS))
        tensors = [np.random.default_rng(0).random(pow_model.SHAPE, np.float32)]
        return _hogged(open_interpreter(model), tensors)


def _hogged(interpreter: Interpreter, tensors: list[NDArray[Any]]) -> dict[str, Any]:
    found = []
    with _loaded(interpreter, tensors) as (load, piece_s):
        for _ in range(_TRIALS):
            time.sleep(_SETTLE_S)
            before = load.factor
            hogs = min(_MOST_HOGS, round(before)) * (os.cpu_count() or 1)
            started_s = time.monotonic()
            with contextlib.ExitStack() as closing:
                for _ in range(hogs):
                    other = closing.enter_context(subprocess.Popen(_HOG))
                    closing.callback(other.terminate)
                wanted = _NOTICED * before
                seconds = _seconds_until(lambda wanted=wanted: load.factor >= wanted, started_s)  # type: ignore[misc]
                found.append({"seconds": seconds, "hogs": hogs, "before": before, "after": load.factor})
    worst = max(found, key=lambda one: one["seconds"])
    return {**worst, "median": statistics.median(one["seconds"] for one in found), "model_s": piece_s}


def clock(root: str) -> dict[str, Any]:
    """Halve the limit of the clock. The reader of the clock is an argument, as a virtual machine has none."""
    _pin()
    limit_mhz = [1500.0]
    with _loaded(*_of_bundle(root), clock=lambda: Clock(limit_mhz[0])) as (load, _):
        before = load.factor
        limit_mhz[0] /= 2
        seconds = _seconds_until(lambda: load.factor >= _NOTICED * before)
        return {"seconds": seconds, "before": before, "after": load.factor}


def slow(root: str) -> dict[str, Any]:
    """Double the spin's CPU time on a board that does not report its clock. Both are simulated, as above."""
    _pin()
    factor = [1.0]

    def slowed() -> Spin:
        made = spin()
        return Spin(made.wall_s * factor[0], made.cpu_s * factor[0])

    with _loaded(*_of_bundle(root), clock=lambda: None, make_spin=slowed) as (load, _):
        before = load.factor
        factor[0] = 2.0
        seconds = _seconds_until(lambda: load.factor >= _NOTICED * before)
        return {"seconds": seconds, "before": before, "after": load.factor}


def _pin() -> int:
    """Keep this process on one core; return the core's number."""
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def _of_bundle(root: str) -> tuple[Interpreter, list[NDArray[Any]]]:
    bundle = Bundle.open(Path(root))
    return open_interpreter(bundle.path(bundle.manifest.model)), inputs(bundle)


def _takes_s(work: Callable[[], object]) -> float:
    took_s = []
    for _ in range(20):
        started_s = time.thread_time()
        work()
        took_s.append(time.thread_time() - started_s)
    return statistics.median(took_s)


@contextlib.contextmanager
def _loaded(
    interpreter: Interpreter,
    tensors: list[NDArray[Any]],
    *,
    clock: Callable[[], Clock | None] = read_clock,
    make_spin: Callable[[], Spin] = spin,
) -> Iterator[tuple[LoadEstimator, float]]:
    """Give the program's estimate of the load while a thread runs one frame after another.

    Also gives the seconds of the model alone.
    """
    board = RealBoard()
    over = threading.Event()

    def frames() -> None:
        while not over.wait(0.002):
            board.run(lambda: interpreter.run(tensors))

    piece_s = _takes_s(lambda: interpreter.run(tensors))
    load = LoadEstimator(speed_of(board), cpus=os.cpu_count() or 1, allowed=allowed_cpus())
    watch, working = (
        LoadWatch(LoadReader(board, clock=clock, make_spin=make_spin), load),
        threading.Thread(target=frames),
    )
    working.start()
    watch.start()
    time.sleep(_SETTLE_S)
    try:
        yield load, piece_s
    finally:
        over.set()
        watch.stop()
        working.join()


def _seconds_until(noticed: Callable[[], bool], since_s: float | None = None) -> float:
    """Return the seconds until the condition is true, from now or ``since_s``; at most ten seconds."""
    started_s = time.monotonic() if since_s is None else since_s
    while not noticed() and time.monotonic() - started_s < _PATIENCE_S:
        time.sleep(0.01)
    return time.monotonic() - started_s

"""How soon the estimate of the load moves: by a CPU hog, and by a processor that goes slower.

Each is one measurement in a process of its own, see `worker`.
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

#: The estimate has moved when it is so many times what it was.
_NOTICED = 1.4
_SETTLE_S, _PATIENCE_S = 2.0, 10.0
_TRIALS, _MOST_HOGS = 5, 12
#: It is busy at once, as a Python would not be. A child's child: processes that the program starts itself are none.
_HOG = ("timeout", "60", "/bin/sh", "-c", "while :; do :; done")
#: Of the short model: about a millisecond on a PC.
_SHORT_POWS = 20


def inputs(bundle: Bundle) -> list[NDArray[Any]]:
    """Random inputs of a bundle."""
    return [np.random.default_rng(0).random(spec.shape).astype(spec.dtype) for spec in bundle.manifest.inputs]


def hog(root: str) -> dict[str, Any]:
    """A busy process for each CPU, while frames are worked on one after another; the worst of some trials.

    Where others are on them already, so many that the load is doubled.
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
    """The clock's limit goes down to a half; its reader is handed in, since a virtual machine has none."""
    _pin()
    limit_mhz = [1500.0]
    with _loaded(*_of_bundle(root), clock=lambda: Clock(limit_mhz[0])) as (load, _):
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

    with _loaded(*_of_bundle(root), clock=lambda: None, make_spin=slowed) as (load, _):
        before = load.factor
        factor[0] = 2.0
        seconds = _seconds_until(lambda: load.factor >= _NOTICED * before)
        return {"seconds": seconds, "before": before, "after": load.factor}


def _pin() -> int:
    """Keep this process to one core: its number."""
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
    """The estimate of the load as the program makes it, while a thread works on one frame after another.

    Also the seconds that the model takes alone.
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
    """How long it takes, from now or ``since_s``; at most ten seconds."""
    started_s = time.monotonic() if since_s is None else since_s
    while not noticed() and time.monotonic() - started_s < _PATIENCE_S:
        time.sleep(0.01)
    return time.monotonic() - started_s

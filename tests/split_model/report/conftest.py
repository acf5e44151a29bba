"""A run's log made up from a little model of a board and a link, so that the report has all it can show."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

CUTS = {4: (0.11, 75_264), 9: (0.17, 37_632), 12: (0.24, 15_680), 21: (0.33, 7_840), 62: (0.42, 0)}
"""Head time in s and payload in bytes of each split point; the last is local."""
LOCAL = 62
LABELS = ["<b>&amp;</b>", "tabby", "goldfinch", "ice cream", "lighthouse"]
Records = list[dict[str, Any]]


def head(title: str = "EfficientNet-Lite0 over a car's uplink") -> dict[str, Any]:
    return {
        "kind": "run",
        "title": title,
        "started": "2026-01-01T12:00:00+00:00",
        "machine": "x86_64, 2 cores",
        "versions": {"numpy": "2.4", "pyzmq": "27"},
        "emulated": ["board: this machine slowed 32 times", "uplink: a recorded cellular trace, 20 ms each way"],
        "notes": ["All devices ran at the same time."],
        "bundle": "efficientnet_lite0",
        "trace": "verizon-lte",
        "release": {"mechanism": "noise", "epsilon": 16.0, "allocation": "optimal", "bits": 8},
        "privacy": [
            {
                "cut": cut,
                "values": size,
                "payload_bytes": size,
                "per_value_epsilon_max": 31.4159,
                "per_value_epsilon_mean": 16.0,
                "whole_input_epsilon": size * 16.0,
            }
            for cut, (_, size) in CUTS.items()
            if size
        ],
    }


def frame(policy: str, at_s: float, **fields: Any) -> dict[str, Any]:
    return {
        "kind": "frame",
        "policy": policy,
        "index": round(at_s * 10),
        "name": "a.jpg",
        "at_s": at_s,
        "split": 12,
        "split_name": "cut 12",
        "outcome": "offloaded",
        "latency_s": 0.25,
        "payload_bytes": 15_680,
        "uplink_mbit_s": 4.0,
        "answer": [{"label": "tabby", "score": 0.71, "class": 281}],
        "truth": "tabby",
        "unprotected_top1": "tabby",
    } | fields


def simulated(
    policy: str, choose: Callable[[float], int], rates: Sequence[float], pictures: Sequence[str | None]
) -> Records:
    """Frames one after the other; ``choose`` takes the estimated uplink in Mbit/s and gives the split point."""
    dice, found, at_s, estimate = random.Random(policy), [], 0.5, 5.0
    while at_s < len(rates) / 2:
        rate = max(rates[int(at_s * 2)], 0.05)
        split = choose(estimate)
        head_s, size = CUTS[split]
        latency_s = head_s * dice.uniform(0.97, 1.1) + (size * 8e-6 / rate + 0.06 if size else 0.0)
        outcome = (
            "local" if split == LOCAL else "fallback" if latency_s > 1.5 and policy == "adaptive" else "offloaded"
        )
        truth = LABELS[len(found) % len(LABELS)]
        answer = truth if dice.random() < 0.9 else "wallaby"
        found.append(
            frame(
                policy,
                round(at_s, 3),
                name=f"imagenet_{len(found) % len(pictures):02d}.jpg",
                image=pictures[len(found) % len(pictures)],
                split=split,
                split_name="local" if split == LOCAL else f"cut {split}",
                outcome=outcome,
                latency_s=min(latency_s, 1.45) if outcome == "fallback" else latency_s,
                payload_bytes=size,
                uplink_mbit_s=round(estimate, 3) if policy == "adaptive" else None,
                answer=[{"label": answer, "score": dice.uniform(0.3, 0.95), "class": 1}],
                truth=truth,
                unprotected_top1=truth,
            )
        )
        estimate += 0.4 * (rate * dice.uniform(0.8, 1.1) - estimate)
        at_s += max(latency_s, 0.45)
    return found


def adaptive(estimate: float) -> int:
    return min(
        CUTS, key=lambda cut: CUTS[cut][0] + (CUTS[cut][1] * 8e-6 / max(estimate, 0.1) + 0.06) * (cut != LOCAL)
    )


def made_up(rates: Sequence[float], pictures: Sequence[str | None] = (None,)) -> Records:
    records: Records = [head()]
    records += [{"kind": "link", "at_s": i / 2, "mbit_s": rate} for i, rate in enumerate(rates)]
    policies = {"adaptive": ("adaptive", adaptive), "local only": ("local", lambda _: LOCAL)}
    policies |= {f"fixed cut {cut}": ("fixed", lambda _, cut=cut: cut) for cut in CUTS if cut != LOCAL}
    for name, (role, choose) in policies.items():
        records.append({"kind": "policy", "name": name, "role": role})
        records += simulated(name, choose, rates, pictures)
    switches = [r for r in records if r["kind"] == "frame" and r["policy"] == "adaptive"]
    records += [
        {
            "kind": "decision",
            "policy": "adaptive",
            "at_s": b["at_s"],
            "from": a["split"],
            "to": b["split"],
            "why": "gain",
        }
        for a, b in itertools.pairwise(switches)
        if a["split"] != b["split"]
    ]
    return records


def save(path: Path, records: Records) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="session")
def report_log() -> Callable[[Path, Sequence[str | None]], Path]:
    """Write a run with all there can be in one, over 20 s of a made-up link."""
    dice = random.Random(1)
    rates = [dice.choice([0.0, 0.4, 2.0, 6.0, 12.0]) for _ in range(40)]
    return lambda folder, pictures: save(folder / "RUN.jsonl", made_up(rates, pictures))


@pytest.fixture
def save_log() -> Callable[[Path, dict[str, float]], Path]:
    """Write a run with as little as may be: one frame a policy, of the latency given."""

    def write(folder: Path, latencies_s: dict[str, float]) -> Path:
        records: Records = [{"kind": "run", "title": "bare"}]
        for name, latency_s in latencies_s.items():
            records.append({"kind": "policy", "name": name, "role": name.split()[0]})
            records.append(
                {
                    "kind": "frame",
                    "policy": name,
                    "at_s": 0,
                    "split": 3,
                    "outcome": "offloaded",
                    "latency_s": latency_s,
                }
            )
        return save(folder / "RUN.jsonl", records)

    return write

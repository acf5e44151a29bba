"""What became of an attack: the claims, and the polite devices' latencies beside attacker and spinner."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from rig import POLITE, Rig

P95_RATIO = 1.5
#: From the begin of a phase; what was under way then belongs to the one before.
SETTLE_S = 1.0


@dataclass(frozen=True)
class Phase:
    """A time in which one of the two ran."""

    kind: str
    begins_s: float
    ends_s: float


def latencies_of(rig: Rig, within: list[tuple[float, float]]) -> tuple[list[float], Counter[str]]:
    """Latencies of the polite devices' frames that were asked within these times; without an answer, infinite."""
    latencies: list[float] = []
    ends: Counter[str] = Counter()
    for number in range(POLITE):
        for line in rig.lines(f"polite{number}"):
            asked_s = line.get("asked_s")
            if asked_s is None or line["dropped"] or not any(a <= asked_s < b for a, b in within):
                continue
            ends[line["how"]] += 1
            latencies.append(line["latency_s"] if line["how"] == "answered" else float("inf"))
    return latencies, ends


def _spent_of(rig: Rig, within: list[tuple[float, float]]) -> dict[str, float | None]:
    """95th percentiles in ms: of the wait for a worker, of the tail, and of the rest of an answer's latency.

    The rest is the way there and back: both programs' loops, and waiting for the processor.
    """
    lines = [
        line
        for number in range(POLITE)
        for line in rig.lines(f"polite{number}")
        if line.get("how") == "answered" and not line["dropped"]
        if any(a <= line["asked_s"] < b for a, b in within)
    ]
    spent = {
        "queue": [line["queue_s"] for line in lines],
        "tail": [line["tail_s"] for line in lines],
        "rest": [line["latency_s"] - line["queue_s"] - line["tail_s"] for line in lines],
    }
    return {name: None if (p95 := _p95_ms(times)) is None else round(p95, 1) for name, times in spent.items()}


def _times(phases: list[Phase], kind: str) -> list[tuple[float, float]]:
    return [(phase.begins_s + SETTLE_S, phase.ends_s) for phase in phases if phase.kind == kind]


def _by_attack(rig: Rig, phases: list[Phase]) -> dict[str, list[tuple[float, float]]]:
    """When each attack was under way."""
    began = [(line["at_s"], line["begins"]) for line in rig.lines("report") if "begins" in line]
    times: dict[str, list[tuple[float, float]]] = {}
    for phase in (phase for phase in phases if phase.kind == "attacker"):
        within = [(at_s, name) for at_s, name in began if phase.begins_s <= at_s < phase.ends_s]
        ends = [at_s for at_s, _ in within[1:]] + [phase.ends_s]
        for (at_s, name), end_s in zip(within, ends, strict=True):
            times.setdefault(name, []).append((at_s, end_s))
    return times


def _p95_ms(latencies: list[float]) -> float | None:
    return float(np.percentile(latencies, 95, method="higher")) * 1000 if latencies else None


def claim(name: str, value: object, goal: object, *, holds: bool) -> dict[str, object]:
    return {"name": name, "value": value, "goal": goal, "holds": holds}


def result_of(rig: Rig, phases: list[Phase], *, safety: bool) -> dict[str, Any]:
    foreign = [line["foreign"] for line in rig.lines("report") if "foreign" in line]
    records = [line for number in range(POLITE) for line in rig.lines(f"polite{number}")] + rig.lines("local")
    wrong = [line["wrong"] for line in records if "wrong" in line]
    alive = rig.alive
    latencies, ends = latencies_of(rig, _times(phases, "attacker"))
    last_s = max(
        (line["asked_s"] for line in records if line.get("how") == "answered" and "asked_s" in line), default=0
    )
    claims = [
        claim("programs alive", sum(alive.values()), 2, holds=all(alive.values())),
        claim("messages to another key", len(foreign), 0, holds=not foreign),
        claim("wrong answers", len(wrong), 0, holds=not wrong),
        claim(
            "polite devices answered at the end, s ago",
            round(phases[-1].ends_s - last_s, 1),
            5.0,
            holds=phases[-1].ends_s - last_s < 5.0,
        ),
    ]
    result: dict[str, Any] = {
        "seed": rig.seed,
        "alive": alive,
        "foreign": foreign[:10],
        "wrong": wrong[:10],
        "polite": dict(ends),
        "local": dict(Counter(str(line["how"])[:60] for line in rig.lines("local"))),
        "attacks": dict(Counter(line["begins"] for line in rig.lines("report") if "begins" in line)),
        "p95_ms": {"attacker": _p95_ms(latencies)},
        "p95_ms_by_attack": {
            name: _p95_ms(latencies_of(rig, times)[0]) for name, times in sorted(_by_attack(rig, phases).items())
        },
    }
    result["p95_ms_spent"] = {"attacker": _spent_of(rig, _times(phases, "attacker"))}
    if not safety:
        result["p95_ms_spent"]["spinner"] = _spent_of(rig, _times(phases, "spinner"))
        beside, ends = latencies_of(rig, _times(phases, "spinner"))
        result["polite_beside_spinner"] = dict(ends)
        result["p95_ms"]["spinner"] = _p95_ms(beside)
        ratio = result["p95_ms"]["attacker"] / result["p95_ms"]["spinner"] if latencies and beside else float("inf")
        claims.append(claim("polite p95 over that beside a spinner", ratio, P95_RATIO, holds=ratio <= P95_RATIO))
    return result | {"claims": claims}

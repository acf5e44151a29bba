"""Compare a real minute of `windows` with the same frames in virtual time."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import ROOT
from benchmarks.adaptive.simulator.program import DEFAULTS, HEDGED, run_program
from benchmarks.adaptive.simulator.scene import (
    WARM_UP_S,
    Run,
    Scene,
    ServerProfile,
    ServerTail,
    at_pace,
    load_profiles,
)
from benchmarks.demo.prepared import BUNDLE, WHOLE_MODEL_S
from benchmarks.wire.tbf import BURST_BYTES
from benchmarks.wire.traces import load_trace
from edge_runtime.inference.profile import Profile
from split_model.bundle import Bundle
from split_model.report.summary import percentile

TRACES = ROOT / "benchmarks" / "traces"
INTERVAL_S = 1.5 * WHOLE_MODEL_S
ANSWER_WITHIN_S = 2.5 * WHOLE_MODEL_S


@dataclass(frozen=True)
class Window:
    """A stretch of a trace, whether the device may hedge, and whether its local runs begin ``anew``."""

    trace: str
    start_s: float
    hedge: bool = False
    anew: bool = False

    @property
    def name(self) -> str:
        """For folders, tables and claims."""
        return f"{self.trace}-{self.start_s:.0f}s" + "-hedged" * self.hedge + "-anew" * self.anew


@dataclass(frozen=True)
class Outcome:
    """One window: its real frames and the simulated ones."""

    window: Window
    real: list[dict[str, Any]]
    simulated: Run

    @property
    def real_s(self) -> list[float]:
        """The latencies of the counted frames."""
        return [record["latency_s"] for record in self.real]

    @property
    def mean_ratio(self) -> float:
        """Real over simulated."""
        return statistics.fmean(self.real_s) / self.simulated.mean_s


def replayed(
    window: Window, answers: Path, epoch_s: float, seconds: float, profile: Profile, *, tbf: bool
) -> Outcome:
    """Return a device's frames from ``epoch_s`` on, and the simulator's results for the same frames."""
    zero_s = epoch_s + min(WARM_UP_S, window.start_s)
    records = [json.loads(line) for line in answers.read_text().splitlines() if line.endswith("}")]
    frames = [r for r in records if r["kind"] == "frame"]
    real = [r for r in frames if 0.0 <= r["captured_s"] - zero_s < seconds]
    scene = _scene(window, real, real[0]["captured_s"] - zero_s, _as_it_was(profile, real))
    scene = dataclasses.replace(scene, delay_s=0.0, burst_bytes=BURST_BYTES) if tbf else scene
    table = HEDGED if window.hedge else DEFAULTS
    simulated = run_program("simulated", scene, table=table, local_tails=not window.anew)
    return Outcome(window, real, dataclasses.replace(simulated, rows=simulated.rows[: len(real)]))


def _as_it_was(profile: Profile, real: Sequence[dict[str, Any]]) -> Profile:
    """The profile at the speed that the board had in the window.

    An emulated board multiplies this machine's CPU time about thirty times, with the effects of caches and of other
    programs. So its speed changes by several percent from one minute to the next. A real board's does not, and the
    benchmark does not measure it.
    """
    known = {timing.split: timing.head_s + timing.release_s for timing in profile.splits}
    ratios = [
        (r["head_s"] + r.get("release_s", 0.0)) / known[r["split"]]
        for r in real
        if r["outcome"] in ("offloaded", "local") and not r["hedged"] and "head_s" in r
    ]
    pace = statistics.fmean(ratios)
    return msgspec.structs.replace(profile, splits=tuple(at_pace(timing, pace) for timing in profile.splits))


def _scene(window: Window, real: Sequence[dict[str, Any]], phase_s: float, profile: Profile) -> Scene:
    """The same frames on the same stretch; the server's times are those it reported in the window."""
    manifest = Bundle.open(BUNDLE).manifest
    _, server = load_profiles(WHOLE_MODEL_S, raw=False)
    per_mac: list[float] = []
    told: dict[int, list[float]] = {}
    macs = {cut.index: cut.tail_macs for cut in manifest.cuts}
    for record in real:
        if "tail_s" in record:
            told.setdefault(record["split"], []).append(record["tail_s"])
            if macs[record["split"]]:
                per_mac.append(record["tail_s"] / macs[record["split"]])
    rate = statistics.median(per_mac) if per_mac else 0.0
    tails = tuple(
        ServerTail(
            split=cut.index,
            tail_macs=cut.tail_macs,
            tail_s=statistics.median(told[cut.index]) if cut.index in told else rate * cut.tail_macs,
            tail_bytes=cut.tail.size_bytes,
        )
        for cut in manifest.cuts
    )
    server = ServerProfile(
        tails=tails,
        raw_bytes=server.raw_bytes,
        jpeg_encode_s=server.jpeg_encode_s,
        jpeg_decode_s=server.jpeg_decode_s,
        jpeg_bytes=server.jpeg_bytes,
    )
    # In virtual time the first counted frame is captured this long after the warm-up.
    first_s = -(-WARM_UP_S // INTERVAL_S) * INTERVAL_S - WARM_UP_S
    return Scene(
        trace=load_trace(TRACES / f"{window.trace}.csv"),
        profile=profile,
        server=server,
        interval_s=INTERVAL_S,
        answer_within_s=ANSWER_WITHIN_S,
        from_s=window.start_s + phase_s - first_s,
    )


def told(outcome: Outcome) -> dict[str, Any]:
    """Return one window's figures, in ms and shares."""
    real, rows = outcome.real, outcome.simulated.rows
    splits = sorted({r["split"] for r in real} | {row.split for row in rows})
    return {
        "window": outcome.window.name,
        "frames": len(real),
        "real_mean_ms": round(statistics.fmean(outcome.real_s) * 1e3, 1),
        "simulated_mean_ms": round(outcome.simulated.mean_s * 1e3, 1),
        "mean_ratio": round(outcome.mean_ratio, 3),
        "real_p95_ms": round(percentile(outcome.real_s, 0.95) * 1e3, 1),
        "simulated_p95_ms": round(outcome.simulated.p95_s * 1e3, 1),
        "real_splits": {str(s): sum(r["split"] == s for r in real) for s in splits},
        "simulated_splits": {str(s): sum(row.split == s for row in rows) for s in splits},
        "real_finished_here": sum(r["outcome"] == "fallback" for r in real),
        "simulated_finished_here": sum(row.outcome == "fallback" for row in rows),
        "board_over_its_profile": round(statistics.median(r["load"] for r in real), 3),
    }

"""The scenes, the policies that play them, and the results of one scene for claims and tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ROOT
from benchmarks.adaptive.simulator import ideal
from benchmarks.adaptive.simulator.board import Hog
from benchmarks.adaptive.simulator.estimators import (
    ForesightEstimator,
    LastSampleEstimator,
    OnceEstimator,
    TruthfulEstimator,
)
from benchmarks.adaptive.simulator.program import HEDGED, run_program
from benchmarks.adaptive.simulator.quiet import quiet_device
from benchmarks.adaptive.simulator.scene import WARM_UP_S, Row, Run, Scene, load_profiles, pooled
from benchmarks.wire.traces import load_trace
from edge_runtime.link.estimator import LinkEstimator

TRACES = ROOT / "benchmarks" / "traces"
#: The two traces that the constants were chosen on.
TUNED_ON = ("att-lte-driving-2016", "verizon-lte")
#: The oracle uses a split if it cuts at least this share of its frames there.
USED_SHARE = 0.1
#: A short trace is played several times, from different starting points, until this many seconds were played. Else
#: a single outage, or the moment at which the hog meets it, would decide a p95.
PLAYED_S = 960.0
#: A recorded uplink changes every half second. Frames every 1.5 s would all be captured at such a change, when the
#: present capacity is also that of the next half second. So each play begins at another point between two changes.
STEP_S = 0.5
#: How far the policies see that know a little of the future.
FORESIGHT_S = (0.25, 0.5)


@dataclass(frozen=True)
class Setting:
    """One scene's name tags: the whole model takes ``whole_s`` on the board; ``raw`` offers the raw input."""

    trace: Path
    whole_s: float = 0.4
    raw: bool = False
    hog: bool = False
    paced: bool = True

    @property
    def name(self) -> str:
        """One line for tables and claims."""
        pace = "" if self.paced else "back-to-back"
        extras = ["raw offered" if self.raw else "", "hog" if self.hog else "", pace]
        return ", ".join([self.trace.stem, f"{self.whole_s * 1e3:.0f} ms", *filter(None, extras)])

    @property
    def held_out(self) -> bool:
        """Whether the trace stayed out of all tuning."""
        return self.trace.stem not in TUNED_ON

    def scene(self, from_s: float = 0.0) -> Scene:
        """The board, the link from there on, and the frames: one every 1.5 whole runs, due after 2.5."""
        profile, server = load_profiles(self.whole_s, raw=self.raw)
        return Scene(
            trace=load_trace(self.trace),
            profile=profile,
            server=server,
            interval_s=1.5 * self.whole_s if self.paced else 0.0,
            answer_within_s=2.5 * self.whole_s,
            hog=Hog(factor=2.0) if self.hog else Hog(),
            from_s=from_s,
        )

    def scenes(self) -> list[Scene]:
        """One for each play."""
        duration_s = self.scene().trace.duration_s
        plays = max(1, round(PLAYED_S / duration_s))
        return [self.scene(play * duration_s / plays + (play + 0.5) / plays * STEP_S) for play in range(plays)]


@dataclass(frozen=True)
class AnswersASecond:
    """Answers per second of back-to-back frames: one at a time, overlapped by us, and the bound of our splits.

    ``bound``: if the slowest stage of each answer (board, uplink or server) were all that takes time.
    ``alone_mean_s``: mean latency with one at a time.
    """

    alone: float
    ours: float
    bound: float
    alone_mean_s: float


@dataclass(frozen=True)
class Compared:
    """All policies on one scene."""

    setting: Setting
    runs: dict[str, Run]
    best_fixed: str
    used: tuple[int, ...]
    probe_share: float
    answers_s: AnswersASecond | None = None

    def ratio(self, policy: str, to: str, *, p95: bool = False) -> float:
        """Return our mean latency divided by another policy's."""
        ours, theirs = self.runs[policy], self.runs[to]
        return ours.p95_s / theirs.p95_s if p95 else ours.mean_s / theirs.mean_s

    def better(self, *policies: str) -> str:
        """Return the policy with the lowest mean latency."""
        return min(policies, key=lambda policy: self.runs[policy].mean_s)


def policies() -> dict[str, Callable[[Scene], Run]]:
    """Return the policies by name; one with an estimator is our program with another estimate of the link."""

    def believing(policy: str, belief: Callable[[Scene], LinkEstimator]) -> Callable[[Scene], Run]:
        return lambda scene: run_program(policy, scene, estimator=belief(scene))

    def foresight(seconds: float) -> Callable[[Scene], LinkEstimator]:
        return lambda scene: ForesightEstimator(scene.link, seconds)

    return {
        "oracle": ideal.run_oracle,
        "ours": lambda scene: run_program("ours", scene),
        "ours, hedged": lambda scene: run_program("ours, hedged", scene, table=HEDGED),
        "ours, anew": lambda scene: run_program("ours, anew", scene, local_tails=False),
        "perfect rate": ideal.run_perfect_rate,
        "ours, knowing the rate": believing("ours, knowing the rate", lambda scene: TruthfulEstimator(scene.link)),
        **{f"ours, seeing {s:g} s": believing(f"ours, seeing {s:g} s", foresight(s)) for s in FORESIGHT_S},
        "last sample": believing("last sample", lambda _: LastSampleEstimator()),
        "static": believing("static", lambda scene: OnceEstimator(scene.link)),
        "edge-only": ideal.run_edge_only,
        "cloud-only": ideal.run_cloud_only,
        "cloud-only as permitted": ideal.run_permitted,
        "JPEG-then-cloud": ideal.run_jpeg,
    }


def fixed(split: int) -> Callable[[Scene], Run]:
    """Return our program with a fixed split."""
    return lambda scene: run_program(f"fixed {split}", scene, fixed=split)


def compare(setting: Setting) -> Compared:
    """Run every policy on one scene."""
    with quiet_device():
        return _compare(setting)


def _compare(setting: Setting) -> Compared:
    scenes = setting.scenes()
    first = scenes[0]
    splits = [timing.split for timing in first.profile.splits]
    chosen = policies() | {f"fixed {split}": fixed(split) for split in splits[:-1]}
    plays = {name: [policy(scene) for scene in scenes] for name, policy in chosen.items()}
    runs = {name: pooled(played) for name, played in plays.items()}
    link_bytes = sum(scene.link.bits_between(0.0, scene.end_s) / 8 for scene in scenes)
    return Compared(
        setting=setting,
        runs=runs,
        best_fixed=min((f"fixed {split}" for split in splits[:-1]), key=lambda name: runs[name].mean_s),
        used=tuple(split for split in splits if runs["oracle"].share(split) >= USED_SHARE),
        probe_share=runs["ours"].probe_bytes / link_bytes,
        answers_s=None if setting.paced else _answers_a_second(scenes, plays["ours"]),
    )


def _answers_a_second(scenes: Sequence[Scene], ours: Sequence[Run]) -> AnswersASecond:
    alone = pooled([run_program("alone", scene, overlap=False) for scene in scenes])
    slowest_s = sum(_slowest_s(scene, row) for scene, run in zip(scenes, ours, strict=True) for row in run.rows)
    total_s = scenes[0].trace.duration_s * len(scenes)
    frames = sum(len(run.rows) for run in ours)
    return AnswersASecond(len(alone.rows) / total_s, frames / total_s, frames / slowest_s, alone.mean_s)


def _slowest_s(scene: Scene, row: Row) -> float:
    """Return the seconds of the slowest stage of this answer."""
    way = {way.split: way for way in ideal.ways(scene)}[row.split]
    if row.outcome == "fallback" or not way.payload_bytes:
        return scene.profile.local.head_s
    sends_s = WARM_UP_S + row.captured_s + way.board_s
    transfer_s = scene.link.finish_s(sends_s, ideal.sent_bytes(way.payload_bytes) * 8) - sends_s
    return max(way.board_s, transfer_s, way.tail_s)


def settings(traces: Sequence[Path], *, full: bool) -> list[Setting]:
    """The scenes: two board speeds with and without raw offered, a CPU hog, back-to-back; or all combinations."""
    chosen = []
    for trace in traces:
        if full:
            chosen += [
                Setting(trace, whole_s, raw, hog, paced)
                for whole_s in (0.15, 0.4, 1.0)
                for raw in (True, False)
                for hog in (False, True)
                for paced in (True, False)
            ]
        else:
            chosen += [Setting(trace, whole_s, raw) for whole_s in (0.4, 1.0) for raw in (False, True)]
            chosen += [Setting(trace, hog=True), Setting(trace, paced=False)]
    return chosen

"""How well the split follows the board and the link: the device program in virtual time against an oracle.

    python benchmarks/adaptive.py [--json] [--plot FOLDER] [--traces FOLDER] [--full]

EfficientNet-Lite0 on emulated boards behind recorded cellular uplinks. The planner, the estimators, the deadlines,
the frame loop and the protocol are the product's own code; clock, link, board and server are virtual (see
``simulator``). The last line is ``{"claims": [...]}``.

The constants of planner and estimator were chosen on the traces in `TUNED_ON`; all others were left out of
that, and the table marks them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the folder above this one holds the packages
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.simulator import ideal
from benchmarks.simulator.board import Hog
from benchmarks.simulator.estimators import (
    ForesightEstimator,
    LastSampleEstimator,
    OnceEstimator,
    TruthfulEstimator,
)
from benchmarks.simulator.program import HEDGED, run_program
from benchmarks.simulator.scene import Run, Scene, load_profiles, pooled
from benchmarks.traces import load_trace
from edge_runtime.conditions.link import LinkEstimator
from split_model.errors import MissingInputError, SplitModelError

TRACES = Path(__file__).parent / "traces"
#: The two traces that the constants were chosen on.
TUNED_ON = ("att-lte-driving-2016", "verizon-lte")
#: A split counts as used by the oracle when so many of its frames are cut there.
USED_SHARE = 0.1
MEAN_GOAL, P95_GOAL, SINGLE_SIDE_GOAL = 1.10, 1.25, 1.03
#: A short trace is played several times over, from points spread over it, until so much has been played: else one
#: outage more or less, or where the hog happens to meet it, decides over a p95.
PLAYED_S = 480.0
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
        return [self.scene(play * duration_s / plays) for play in range(plays)]


@dataclass(frozen=True)
class Compared:
    """All policies on one scene."""

    setting: Setting
    runs: dict[str, Run]
    best_fixed: str
    used: tuple[int, ...]
    probe_share: float

    def ratio(self, policy: str, to: str, *, p95: bool = False) -> float:
        """Latency over another policy's."""
        ours, theirs = self.runs[policy], self.runs[to]
        return ours.p95_s / theirs.p95_s if p95 else ours.mean_s / theirs.mean_s

    @property
    def single_side(self) -> str:
        """The better of edge-only and cloud-only."""
        return min(("edge-only", "cloud-only"), key=lambda policy: self.runs[policy].mean_s)


def policies() -> dict[str, Callable[[Scene], Run]]:
    """By name; those with an estimator are our own program with another belief of the link."""

    def believing(policy: str, belief: Callable[[Scene], LinkEstimator]) -> Callable[[Scene], Run]:
        return lambda scene: run_program(policy, scene, estimator=belief(scene))

    def foresight(seconds: float) -> Callable[[Scene], LinkEstimator]:
        return lambda scene: ForesightEstimator(scene.link, seconds)

    return {
        "oracle": ideal.run_oracle,
        "ours": lambda scene: run_program("ours", scene),
        "ours, hedged": lambda scene: run_program("ours, hedged", scene, table=HEDGED),
        "perfect rate": ideal.run_perfect_rate,
        "perfect rate, rescued": believing("perfect rate, rescued", lambda scene: TruthfulEstimator(scene.link)),
        **{f"sees {s:g} s ahead": believing(f"sees {s:g} s ahead", foresight(s)) for s in FORESIGHT_S},
        "last sample": believing("last sample", lambda _: LastSampleEstimator()),
        "static": believing("static", lambda scene: OnceEstimator(scene.link)),
        "edge-only": ideal.run_edge_only,
        "cloud-only": ideal.run_cloud_only,
        "JPEG-then-cloud": ideal.run_jpeg,
    }


def fixed(split: int) -> Callable[[Scene], Run]:
    """The program with a split that the user fixed."""
    return lambda scene: run_program(f"fixed {split}", scene, fixed=split)


def compare(setting: Setting) -> Compared:
    """Run every policy on one scene."""
    logging.getLogger("edge_runtime").setLevel(logging.ERROR)  # an outage in virtual time is no news
    scenes = setting.scenes()
    first = scenes[0]
    splits = [timing.split for timing in first.profile.splits]
    chosen = policies() | {f"fixed {split}": fixed(split) for split in splits[:-1]}
    runs = {name: pooled([policy(scene) for scene in scenes]) for name, policy in chosen.items()}
    link_bytes = sum(scene.link.bits_between(0.0, scene.end_s) / 8 for scene in scenes)
    return Compared(
        setting=setting,
        runs=runs,
        best_fixed=min((f"fixed {split}" for split in splits[:-1]), key=lambda name: runs[name].mean_s),
        used=tuple(split for split in splits if runs["oracle"].share(split) >= USED_SHARE),
        probe_share=runs["ours"].probe_bytes / link_bytes,
    )


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


def claims(results: Sequence[Compared]) -> list[dict[str, Any]]:
    """The issue's goals, scene by scene."""
    made: list[dict[str, Any]] = []

    def claim(name: str, value: float, goal: str, *, holds: bool) -> None:
        made.append({"name": name, "value": round(value, 3), "goal": goal, "holds": holds})

    for result in results:
        name = result.setting.name + ("" if result.setting.trace.stem in TUNED_ON else " (held out)")
        if len(result.used) >= 3:
            mean, p95 = result.ratio("ours", "oracle"), result.ratio("ours", "oracle", p95=True)
            claim(f"{name}: mean over the oracle's", mean, f"<= {MEAN_GOAL:.2f}", holds=mean <= MEAN_GOAL)
            claim(f"{name}: p95 over the oracle's", p95, f"<= {P95_GOAL:.2f}", holds=p95 <= P95_GOAL)
        side = result.ratio("ours", result.single_side)
        goal = f"<= {SINGLE_SIDE_GOAL:.2f}"
        claim(f"{name}: mean over {result.single_side}'s", side, goal, holds=side <= SINGLE_SIDE_GOAL)
        for policy in ("perfect rate", "perfect rate, rescued"):
            ratio = result.ratio("ours", policy)
            claim(f"{name}: mean over that of '{policy}'", ratio, "< 1", holds=ratio < 1)
    return made


_LEGEND = """\
mean/p95 latency in ms; x: ours over the oracle's; * the oracle uses three or more splits, each for a tenth or more
hedged: ours with planner.hedge = true; perfect: knows the present capacity, hysteresis, no local rescue;
rescued, sees, last, static, fixed: our own program knowing the present capacity, or that of the time to come, or
the newest sample, or one measured at the start; or with one split; cloud: the raw input, unprotected, as JPEG is;
probes: share of the link; extra: local runs beside a transfer, per frame"""
_POLICIES = {
    "hedged": "ours, hedged",
    "perfect": "perfect rate",
    "rescued": "perfect rate, rescued",
    **{f"sees {s:g} s": f"sees {s:g} s ahead" for s in FORESIGHT_S},
    "last": "last sample",
    "static": "static",
    "edge": "edge-only",
    "cloud": "cloud-only",
    "JPEG": "JPEG-then-cloud",
}


def table(results: Sequence[Compared]) -> str:
    """One line a scene."""
    head = ["scene", "oracle", "ours", "x mean", "x p95", *_POLICIES, "best fixed", "probes", "extra"]
    rows = [head]
    for held_out in (False, True):
        chosen = [r for r in results if (r.setting.trace.stem not in TUNED_ON) == held_out]
        if chosen:
            rows.append(["held out of all tuning:" if held_out else "used in tuning:"] + [""] * (len(head) - 1))
        rows += [_row(result) for result in chosen]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([_LEGEND, *(line.rstrip() for line in lines)])


def _row(result: Compared) -> list[str]:
    cells = {name: f"{run.mean_s * 1e3:.0f}/{run.p95_s * 1e3:.0f}" for name, run in result.runs.items()}
    ours = result.runs["ours"]
    return [
        ("* " if len(result.used) >= 3 else "  ") + result.setting.name,
        cells["oracle"],
        cells["ours"],
        f"{result.ratio('ours', 'oracle'):.3f}",
        f"{result.ratio('ours', 'oracle', p95=True):.2f}",
        *(cells[name] for name in _POLICIES.values()),
        f"{result.best_fixed[6:]}: {cells[result.best_fixed]}",
        f"{result.probe_share:.1%}",
        f"{ours.background_runs / max(1, len(ours.rows)):.1%}",
    ]


def as_plain(result: Compared) -> dict[str, Any]:
    """One scene for ``--json``; seconds."""
    return {
        "scene": result.setting.name,
        "held_out": result.setting.trace.stem not in TUNED_ON,
        "oracle_uses": list(result.used),
        "best_fixed": result.best_fixed,
        "probe_share_of_link": result.probe_share,
        "policies": {
            name: {
                "mean_s": run.mean_s if run.rows else None,
                "p95_s": run.p95_s if run.rows else None,
                "frames": len(run.rows),
                "splits": {str(s): run.share(s) for s in sorted({row.split for row in run.rows})},
                "background_runs": run.background_runs,
                "fallbacks": sum(row.how == "fallback" for row in run.rows),
            }
            for name, run in result.runs.items()
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="adaptive", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--traces", type=Path, default=TRACES, metavar="FOLDER", help="of time_s,uplink_mbit_s files"
    )
    parser.add_argument("--full", action="store_true", help="every combination of speed, raw, hog and pace")
    parser.add_argument("--only-plot", action="store_true", help="draw and compare nothing; with --plot")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw each trace: uplink, split, latency")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except SplitModelError as error:
        print(f"adaptive: {error}", file=sys.stderr)
        return error.exit_code
    return os.EX_OK


def _run(options: argparse.Namespace) -> None:
    traces = sorted(options.traces.glob("*.csv"), key=lambda path: (path.stem not in TUNED_ON, path.stem))
    if not traces:
        raise MissingInputError(f"{options.traces}: no .csv file there; see benchmarks/traces for recorded ones")
    if options.plot:
        _draw(traces, options.plot)
        if options.only_plot:
            return
    chosen = settings(traces, full=options.full)
    longest_first = sorted(chosen, key=lambda setting: -setting.trace.stat().st_size)
    with ProcessPoolExecutor(options.jobs) as pool:
        done = dict(zip(longest_first, pool.map(compare, longest_first), strict=True))
    results = [done[setting] for setting in chosen]
    if options.json:
        machine = {"machine": platform.machine(), "python": platform.python_version()}
        print(json.dumps({**machine, "scenes": [as_plain(result) for result in results]}))
    else:
        print(table(results))
    print(json.dumps({"claims": claims(results)}))


def _draw(traces: Sequence[Path], folder: Path) -> None:
    """One play of each trace on a board of 400 ms, ours beside the oracle."""
    from benchmarks.simulator.plot import draw

    folder.mkdir(parents=True, exist_ok=True)
    for trace in traces:
        setting = Setting(trace)
        scene = setting.scene()
        runs = {"oracle": ideal.run_oracle(scene), "ours": run_program("ours", scene)}
        draw(setting.name, scene, runs, folder / f"{trace.stem}.png")


if __name__ == "__main__":
    sys.exit(main())

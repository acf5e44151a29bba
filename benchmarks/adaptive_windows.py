"""Real minutes beside the simulator: the real programs on an emulated link and board must agree with virtual time.

    python benchmarks/adaptive_windows.py [--windows N] [--seconds S] [--json] [--tbf]

Each window is a stretch of a recorded uplink with a device of its own: the real device program with its shipped
defaults on an emulated board (the whole model 400 ms), behind the user-space link of ``shaper`` or, with ``--tbf``
as root, behind a token bucket of the kernel in a network namespace, to one real server. Several windows run at the
same time; the boards sleep most of it. Then the simulator plays the same frames on the same stretch, from the
profile that `edge-runtime bench` measured just before, at the pace the board had. Ends with one line of claims.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

if not __package__:  # run as a script: the folder above this one holds the packages
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.demo import BUNDLE, PHOTOGRAPHS, WHOLE_MODEL_S, prepare_all
from benchmarks.rig import ROOT, Rig
from benchmarks.simulator.program import DEFAULTS, HEDGED, run_program
from benchmarks.simulator.scene import WARM_UP_S, Run, Scene, ServerProfile, ServerTail, load_profiles
from benchmarks.tbf import BURST_BYTES, Namespace
from benchmarks.traces import load_trace
from edge_runtime.profile import Profile
from edge_runtime.profile import load as load_profile
from split_model.bundle import Bundle
from split_model.errors import SplitModelError, UsageError
from split_model.interpreter import open_interpreter
from split_model.report.summary import percentile

BUILD = ROOT / "build" / "windows"
TRACES = ROOT / "benchmarks" / "traces"
INTERVAL_S = 1.5 * WHOLE_MODEL_S
ANSWER_WITHIN_S = 2.5 * WHOLE_MODEL_S
#: How far the real mean may be from the simulated one.
AGREEMENT = 0.05
_SETTLE_S = 3.0


@dataclass(frozen=True)
class Window:
    """A stretch of a trace, and whether the device may hedge."""

    trace: str
    start_s: float
    hedge: bool = False

    @property
    def name(self) -> str:
        """For folders, tables and claims."""
        return f"{self.trace}-{self.start_s:.0f}s" + ("-hedged" if self.hedge else "")


WINDOWS = (
    Window("att-lte-driving-2016", 0.0),
    Window("att-lte-driving-2016", 0.0, hedge=True),
    Window("verizon-lte", 20.0),
    Window("tmobile-umts-driving", 300.0),
    Window("att-lte-driving-2016", 60.0),
    Window("att-lte-driving-2016", 60.0, hedge=True),
    Window("tmobile-umts-driving", 600.0),
    Window("tmobile-umts-driving", 600.0, hedge=True),
)
#: As many devices at a time as leave two cores idle most of the time.
AT_ONCE = 4


@dataclass(frozen=True)
class Outcome:
    """One window, in reality and simulated."""

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


def slowdown_here(bundle: Bundle) -> float:
    """What makes the whole model take `WHOLE_MODEL_S` on the emulated board."""
    import numpy as np

    interpreter = open_interpreter(bundle.path(bundle.manifest.model))
    inputs = [np.random.default_rng(0).random(spec.shape, np.float32) for spec in bundle.manifest.inputs]
    times = []
    for _ in range(30):
        cpu_s = time.thread_time()
        interpreter.run(inputs)
        times.append(time.thread_time() - cpu_s)
    return WHOLE_MODEL_S / statistics.median(times[5:])


def device_text(window: Window, address: str, server_key: str, slowdown: float) -> str:
    """The defaults as shipped, but for what makes the scene."""
    hedge = "hedge = true\n" if window.hedge else ""
    return (
        f'[device]\nbundle = {json.dumps(str(BUNDLE.resolve()))}\nkey = "device.key"\nstate = "state"\n'
        f'[server]\naddress = "{address}"\npublic_keys = [{json.dumps(server_key)}]\n'
        '[release]\nmechanism = "noise"\nepsilon = 16.0\nallocation = "uniform"\nbits = 5\n'
        f'[privacy]\nwhole_input_budget = "unlimited"\n[planner]\nanswer_within_s = {ANSWER_WITHIN_S}\n{hedge}'
        f"[source]\npath = {json.dumps(str((PHOTOGRAPHS / 'labelled').resolve()))}\nrepeat = 0\n"
        f'interval_s = {INTERVAL_S}\n[sink]\npath = "answers.jsonl"\n[emulation]\nslowdown = {slowdown!r}\n'
    )


def play(windows: Sequence[Window], seconds: float, *, tbf: bool) -> list[Outcome]:
    """Run the windows for real, all at once, then in virtual time."""
    shutil.rmtree(BUILD, ignore_errors=True)
    slowdown = slowdown_here(Bundle.open(BUNDLE))
    with Rig(BUILD) as rig, contextlib.ExitStack() as closing:
        server_config, server_port = rig.server(BUNDLE, address="tcp://0.0.0.0:0" if tbf else "tcp://127.0.0.1:0")
        server_key = (server_config.parent / "server.pub").read_text().strip()
        configs = {}
        for window in windows:
            config = rig.device_config(window.name, device_text(window, "tcp://127.0.0.1:1", server_key, slowdown))
            rig.enrol(window.name, config, server_config)
            configs[window] = config
        _say("measuring the heads on the emulated board")
        first = configs[windows[0]].parent
        rig.run(
            "bench", "-m", "edge_runtime", "bench", "--no-link", "--runs", "15", "-c", str(first / "device.toml")
        )
        profile = load_profile(next((first / "state").glob("profile-*.json")))
        assert profile is not None
        links: list[str] = []
        shaped: list[Namespace] = []
        for number, (window, config) in enumerate(configs.items()):
            if config.parent != first:
                shutil.copytree(first / "state", config.parent / "state")
            before_s = max(0.0, window.start_s - WARM_UP_S)
            trace = TRACES / f"{window.trace}.csv"
            prefix: tuple[str, ...] = ()
            if tbf:
                space = closing.enter_context(Namespace(number, load_trace(trace, start_s=before_s)))
                shaped.append(space)
                address, prefix = f"tcp://{space.server_address}:{server_port}", space.prefix
            else:
                links.append(f"link-{window.name}")
                capacity = ("--trace", str(trace), "--start-s", str(before_s))
                address = f"tcp://127.0.0.1:{rig.link(links[-1], upstream_port=server_port, capacity=capacity)}"
            config.write_text(device_text(window, address, server_key, slowdown))
            rig.start(window.name, "-m", "edge_runtime", "run", "-c", str(config), prefix=prefix)
        rig.wait_for([config.parent / "answers.jsonl" for config in configs.values()], timeout_s=60)
        time.sleep(_SETTLE_S)
        _say(f"playing {len(windows)} windows of {seconds:.0f} s")
        epoch_s = time.monotonic()
        for space in shaped:
            space.start(epoch_s)
        if not tbf:
            epoch_s = rig.start_traces(links)
        time.sleep(WARM_UP_S + seconds + 2.0)
        for program in rig.programs:
            program.check()
        return [
            _outcome(window, config.parent / "answers.jsonl", epoch_s, seconds, profile, tbf=tbf)
            for window, config in configs.items()
        ]


def _outcome(
    window: Window, answers: Path, epoch_s: float, seconds: float, profile: Profile, *, tbf: bool
) -> Outcome:
    zero_s = epoch_s + min(WARM_UP_S, window.start_s)
    records = [json.loads(line) for line in answers.read_text().splitlines() if line.endswith("}")]
    frames = [r for r in records if r["kind"] == "frame"]
    real = [r for r in frames if 0.0 <= r["captured_s"] - zero_s < seconds]
    scene = _scene(window, real, real[0]["captured_s"] - zero_s, _as_it_was(profile, real))
    scene = dataclasses.replace(scene, delay_s=0.0, burst_bytes=BURST_BYTES) if tbf else scene
    table = HEDGED if window.hedge else DEFAULTS
    simulated = run_program("simulated", scene, table=table)
    return Outcome(window, real, dataclasses.replace(simulated, rows=simulated.rows[: len(real)]))


def _as_it_was(profile: Profile, real: Sequence[dict[str, Any]]) -> Profile:
    """The profile at the speed that the board had in the window.

    An emulated board stretches this machine's CPU time, caches and neighbours included, some thirty times. From one
    minute to the next it is several percent faster or slower, which no real board is, and which is not at issue.
    """
    known = {timing.split: timing.head_s + timing.release_s for timing in profile.splits}
    ratios = [
        (r["head_s"] + r.get("release_s", 0.0)) / known[r["split"]]
        for r in real
        if r["how"] in ("offloaded", "local") and not r["hedged"] and "head_s" in r
    ]
    pace = statistics.fmean(ratios)
    splits = tuple(
        msgspec.structs.replace(
            timing,
            head_s=timing.head_s * pace,
            head_p95_s=timing.head_p95_s * pace,
            release_s=timing.release_s * pace,
        )
        for timing in profile.splits
    )
    return msgspec.structs.replace(profile, splits=splits)


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
    # In virtual time the first counted frame is captured so long after the warm-up.
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
    """One window's figures, in ms and shares."""
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
        "real_finished_here": sum(r["how"] == "fallback" for r in real),
        "simulated_finished_here": sum(row.how == "fallback" for row in rows),
        "board_over_its_profile": round(statistics.median(r["load"] for r in real), 3),
    }


def claims(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Each window's agreement, all frames', and what hedging gained in reality."""
    made = [_agreement(outcome.window.name, outcome.mean_ratio) for outcome in outcomes]
    real_s = sum(sum(outcome.real_s) for outcome in outcomes)
    simulated_s = sum(row.latency_s for outcome in outcomes for row in outcome.simulated.rows)
    made.append(_agreement("all windows", real_s / simulated_s))
    by_window = {outcome.window: statistics.fmean(outcome.real_s) for outcome in outcomes}
    for window, mean_s in by_window.items():
        without = dataclasses.replace(window, hedge=False)
        if window.hedge and without in by_window:
            ratio = mean_s / by_window[without]
            name = f"{window.name}: real mean over that without"
            made.append({"name": name, "value": round(ratio, 3), "goal": "<= 1", "holds": ratio <= 1})
    return made


def _agreement(name: str, ratio: float) -> dict[str, Any]:
    return {
        "name": f"{name}: real mean over simulated",
        "value": round(ratio, 3),
        "goal": f"1 +- {AGREEMENT:g}",
        "holds": abs(ratio - 1) <= AGREEMENT,
    }


def batches(count: int) -> Iterator[Sequence[Window]]:
    """The first windows, so many at a time."""
    for begin in range(0, count, AT_ONCE):
        yield WINDOWS[begin : min(begin + AT_ONCE, count)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="adaptive_windows", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--windows", type=int, default=AT_ONCE, help=f"how many, at most {len(WINDOWS)} ({AT_ONCE})"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each (60)")
    parser.add_argument("--tbf", action="store_true", help="shape in the kernel; needs root and iproute2")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    try:
        if not 1 <= options.windows <= len(WINDOWS):
            raise UsageError(f"--windows {options.windows}: give 1 to {len(WINDOWS)}")
        prepare_all()
        outcomes = [
            outcome
            for batch in batches(options.windows)
            for outcome in play(batch, options.seconds, tbf=options.tbf)
        ]
    except SplitModelError as error:
        print(f"adaptive_windows: {error}", file=sys.stderr)
        return error.exit_code
    found = [told(outcome) for outcome in outcomes]
    machine = {"machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"}
    if options.json:
        print(json.dumps({**machine, "windows": found}))
    else:
        for figures in found:
            print(", ".join(f"{key} {value}" for key, value in figures.items()))
    print(json.dumps({"claims": claims(outcomes)}))
    return os.EX_OK


def _say(text: str) -> None:
    print(f"adaptive_windows: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

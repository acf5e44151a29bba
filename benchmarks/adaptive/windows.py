"""Check the simulator against real minutes: real programs on an emulated link and board must agree with it.

    python -m benchmarks.adaptive.windows [--windows N] [--seconds S] [--json] [--tbf]

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
from typing import Any

from benchmarks import ROOT
from benchmarks.adaptive.replay import ANSWER_WITHIN_S, INTERVAL_S, TRACES, Outcome, Window, replayed, told
from benchmarks.adaptive.simulator.scene import WARM_UP_S
from benchmarks.demo.prepared import BUNDLE, PHOTOGRAPHS, WHOLE_MODEL_S, prepare_all
from benchmarks.demo.rig import Rig
from benchmarks.wire.tbf import Namespace
from benchmarks.wire.traces import load_trace
from edge_runtime.inference.profile import load as load_profile
from split_model.bundle import Bundle
from split_model.errors import SplitModelError, UsageError
from split_model.interpreter import open_interpreter

BUILD = ROOT / "build" / "windows"
#: How far the real mean may be from the simulated one.
AGREEMENT = 0.05
_SETTLE_S = 3.0


#: Stretches with outages, some of them twice: with what the board goes on with behind a head, and without.
WINDOWS = (
    Window("att-lte-driving-2016", 20.0),
    Window("att-lte-driving-2016", 20.0, anew=True),
    Window("att-lte-driving-2016", 95.0),
    Window("att-lte-driving-2016", 95.0, anew=True),
    Window("att-lte-driving-2016", 60.0),
    Window("att-lte-driving-2016", 60.0, anew=True),
    Window("tmobile-umts-driving", 600.0),
    Window("tmobile-umts-driving", 600.0, anew=True),
    Window("verizon-lte", 20.0),
    Window("tmobile-lte", 60.0),
    Window("tmobile-umts-driving", 300.0),
    Window("tmobile-umts-driving", 300.0, hedge=True),
)
#: As many devices at a time as leave two cores idle most of the time.
AT_ONCE = 4


def slowdown_here(bundle: Bundle) -> float:
    """Return the slowdown with which the whole model takes `WHOLE_MODEL_S` on the emulated board."""
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
    """Return the config: shipped defaults except for the scene's keys; all cuts, as in the simulator."""
    hedge = "hedge = true\n" if window.hedge else ""
    anew = "local_tail_memory_mb = 0\n" if window.anew else ""
    return (
        f'[device]\nbundle = {json.dumps(str(BUNDLE.resolve()))}\nkey = "device.key"\nstate = "state"\n{anew}'
        f'[server]\naddress = "{address}"\npublic_keys = [{json.dumps(server_key)}]\n'
        '[release]\nmechanism = "noise"\nepsilon = 16.0\nallocation = "uniform"\nbits = 5\n'
        f'[privacy]\nwhole_input_budget = "unlimited"\n[planner]\nanswer_within_s = {ANSWER_WITHIN_S}\n{hedge}'
        'accuracy_floor = "off"\n'
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
            replayed(window, config.parent / "answers.jsonl", epoch_s, seconds, profile, tbf=tbf)
            for window, config in configs.items()
        ]


def claims(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Each window's agreement, all frames', and what hedging and going on behind the head gained in reality."""
    made = [_agreement(outcome.window.name, outcome.mean_ratio) for outcome in outcomes]
    real_s = sum(sum(outcome.real_s) for outcome in outcomes)
    simulated_s = sum(row.latency_s for outcome in outcomes for row in outcome.simulated.rows)
    made.append(_agreement("all windows", real_s / simulated_s))
    by_window = {outcome.window: statistics.fmean(outcome.real_s) for outcome in outcomes}
    for window in by_window:
        plain = dataclasses.replace(window, hedge=False, anew=False)
        if window != plain and plain in by_window:
            better, worse = (window, plain) if window.hedge else (plain, window)
            ratio = by_window[better] / by_window[worse]
            name = f"{better.name}: real mean over that of {worse.name}"
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
    """The first windows, in groups of this size."""
    for begin in range(0, count, AT_ONCE):
        yield WINDOWS[begin : min(begin + AT_ONCE, count)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.adaptive.windows", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--windows", type=int, default=AT_ONCE, help=f"how many, at most {len(WINDOWS)} ({AT_ONCE})"
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="length of each window in seconds (default: 60)"
    )
    parser.add_argument(
        "--tbf",
        action="store_true",
        help="limit the traffic with the kernel's tbf instead of in this program; needs root and iproute2",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    try:
        if not 1 <= options.windows <= len(WINDOWS):
            raise UsageError(f"--windows {options.windows}", remedy=f"give 1 to {len(WINDOWS)}")
        prepare_all()
        outcomes = [
            outcome
            for batch in batches(options.windows)
            for outcome in play(batch, options.seconds, tbf=options.tbf)
        ]
    except SplitModelError as error:
        print(f"benchmarks.adaptive.windows: {error}", file=sys.stderr)
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
    print(f"benchmarks.adaptive.windows: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

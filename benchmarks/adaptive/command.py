"""How well the split follows the board and the link: the device program in virtual time against an oracle.

    python -m benchmarks.adaptive [--json | --markdown] [--plot FOLDER] [--traces FOLDER] [--full]

EfficientNet-Lite0 on emulated boards behind recorded cellular uplinks. The planner, the estimators, the deadlines,
the frame loop and the protocol are the product's own code; clock, link, board and server are virtual (see
``simulator``). The last line is ``{"claims": [...]}``.

The constants of planner and estimator were chosen on the traces in `TUNED_ON`; all others were left out of
that, and the table marks them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.adaptive.report import as_plain, claims, markdown, missed, table
from benchmarks.adaptive.simulator import ideal
from benchmarks.adaptive.simulator.comparison import TRACES, TUNED_ON, Setting, compare, settings
from benchmarks.adaptive.simulator.program import run_program
from split_model.errors import MissingInputError, SplitModelError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.adaptive", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--traces",
        type=Path,
        default=TRACES,
        metavar="FOLDER",
        help="folder of traces: files of time_s,uplink_mbit_s",
    )
    parser.add_argument("--full", action="store_true", help="every combination of speed, raw, hog and pace")
    parser.add_argument("--only-plot", action="store_true", help="draw and compare nothing; with --plot")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON instead of a table")
    form.add_argument("--markdown", action="store_true", help="print the tables of docs/splitting.md")
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
        raise MissingInputError(
            f"{options.traces}: no .csv file there", remedy="see benchmarks/traces for recorded ones"
        )
    if options.plot:
        _draw(traces, options.plot)
        if options.only_plot:
            return
    chosen = settings(traces, full=options.full)
    longest_first = sorted(chosen, key=lambda setting: -setting.trace.stat().st_size)
    with ProcessPoolExecutor(options.jobs) as pool:
        done = dict(zip(longest_first, pool.map(compare, longest_first), strict=True))
    results = [done[setting] for setting in chosen]
    made = claims(results)
    if options.json:
        machine = {"machine": platform.machine(), "python": platform.python_version()}
        print(json.dumps({**machine, "scenes": [as_plain(result) for result in results]}))
    else:
        print(markdown(results) if options.markdown else table(results))
        print(f"\nDoes not hold:\n\n{missed(made)}\n")
    print(json.dumps({"claims": made}))


def _draw(traces: Sequence[Path], folder: Path) -> None:
    """Plot one play of each trace on a board of 400 ms: our policy and the oracle."""
    from benchmarks.adaptive.simulator.plot import draw

    folder.mkdir(parents=True, exist_ok=True)
    for trace in traces:
        setting = Setting(trace)
        scene = setting.scene()
        runs = {"oracle": ideal.run_oracle(scene), "ours": run_program("ours", scene)}
        draw(setting.name, scene, runs, folder / f"adaptive-{trace.stem}.png")

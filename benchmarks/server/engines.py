"""The cost of Ray against the server's own threads, the gain of a second node, and the cost of a death.

    python -m benchmarks.server.engines [--json] [--only overhead nodes deaths]

``overhead``: three tails of EfficientNet-Lite0, one worker each: the local engine, our Ray engine (Ray Core), a
bare call of its actor, and a Ray Serve deployment of the same replica (where `pip install 'ray[serve]'` was run;
it needs 50 more packages). Round trips one at a time, and time an answer with 32 under way. ``nodes``: tails that
sleep for 20 ms, on one node and on two. ``deaths``: kill -9 of a replica and of a node under load. Ends with one
line of claims. Takes some minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil

from benchmarks.server.case import LARGE, MIDDLE, SMALL, Case, open_case
from benchmarks.server.claims import Claim, Part, claim
from benchmarks.server.engine_ways import PATIENCE_S, Actor, Run, Serve, local, on_ray
from benchmarks.server.ray_nodes import TwoNodes
from cloud_server.engine import Done
from cloud_server.engines import ray_access
from cloud_server.engines.tables import RayTable

_ROUNDS, _WARM_UP = 400, 100
_EMULATED_S, _FRAMES = 0.02, 300


def _measure(call: Callable[[], None], flood: Callable[[int], None]) -> dict[str, float]:
    """Return round trip, time and CPU per answer in ms, of this process and its descendants."""
    for _ in range(_WARM_UP):
        call()
    flood(_WARM_UP)
    trips = []
    for _ in range(_ROUNDS):
        began_s = time.perf_counter()
        call()
        trips.append(time.perf_counter() - began_s)
    began_s, own_s, all_s = time.perf_counter(), time.process_time(), _cpu_s()
    flood(_ROUNDS)
    ms = 1e3 / _ROUNDS
    return {
        "round_trip_ms": statistics.median(trips) * 1e3,
        "flooded_ms": (time.perf_counter() - began_s) * ms,
        "gateway_cpu_ms": (time.process_time() - own_s) * ms,
        "cpu_ms": (_cpu_s() - all_s) * ms,
    }


def _cpu_s() -> float:
    """Return the CPU time of this process and of its living descendants."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    times = [process.cpu_times() for process in processes if process.is_running()]
    return float(sum(one.user + one.system for one in times))


WAYS: dict[str, Callable[[Case, str], Any]] = {
    "local": lambda case, _: Run(case, local),
    "ray": lambda case, folder: Run(case, on_ray(RayTable(replicas=1), folder)),
    "actor": Actor,
    "serve": Serve,
}


def measure(way: str, cut: int, folder: str) -> dict[str, float]:
    """Measure one way to run a tail, in a separate process: a process can start Ray only once."""
    run = WAYS[way](open_case(cut), folder)
    try:
        return _measure(run.call, run.flood)
    finally:
        run.close()


def overhead(folder: str) -> Part:
    """Compare round trips and CPU of the ways to run a tail."""
    details: dict[str, Any] = {}
    claims: list[Claim] = []
    ways = [way for way in WAYS if way != "serve" or importlib.util.find_spec("starlette") is not None]
    open_case(SMALL)  # makes the bundle, where it is not there
    for name, cut in (("small", SMALL), ("middle", MIDDLE), ("large", LARGE)):
        found: dict[str, dict[str, float]] = {}
        for way in ways:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                found[way] = pool.submit(measure, way, cut, folder).result()
            print(name, way, json.dumps(found[way]), file=sys.stderr, flush=True)
        details[name] = found
        more = found["ray"]["round_trip_ms"] - found["local"]["round_trip_ms"]
        claims.append(claim(f"ray_adds_to_a_round_trip_of_the_{name}_tail_ms", more, 3.0))
    return claims, details


def nodes(folder: str) -> Part:
    """Compare the answers per second of sleeping tails on one node and on two."""
    case = open_case(SMALL)
    cluster = TwoNodes(both=False)
    table = RayTable(address=cluster.address)
    run = None
    try:
        run = Run(case, on_ray(table, folder, emulated_tail_s=_EMULATED_S))
        rates = []
        for count in (1, 2):
            if count == 2:
                cluster.new_node()
            _until_nodes(run, count)
            run.flood(_WARM_UP)
            began_s = time.perf_counter()
            run.flood(_FRAMES)
            rates.append(_FRAMES / (time.perf_counter() - began_s))
    finally:
        if run is not None:
            run.close()
        cluster.close()
    details = {"one_node_per_s": rates[0], "two_nodes_per_s": rates[1]}
    return [claim("second_node_speeds_up", rates[1] / rates[0], 1.8, at_least=True)], details


def deaths(folder: str) -> Part:
    """Kill a replica and a node under load: answers of each frame, and the longest time without any."""
    case = open_case(SMALL)
    cluster = TwoNodes()
    details: dict[str, Any] = {}
    claims: list[Claim] = []
    run = None
    try:
        run = Run(case, on_ray(RayTable(address=cluster.address), folder, emulated_tail_s=_EMULATED_S))
        kills: dict[str, Callable[[], None]] = {
            "replica": lambda: cluster.replicas()[0].send_signal(signal.SIGKILL),
            "node": cluster.kill_node,
        }
        for what, kill in kills.items():
            _until_nodes(run, 2)
            run.flood(_WARM_UP)
            found = _kill_under_load(run, kill)
            wrong = found["submitted"] - found["answered_once"]
            claims.append(claim(f"frames_without_their_one_answer_after_a_killed_{what}", wrong, 0))
            if what == "replica":
                began_s = time.monotonic()
                _until_nodes(run, 2)
                found["back_after_s"] = found["seconds_after_kill"] + time.monotonic() - began_s
            details[what] = found
    finally:
        if run is not None:
            run.close()
        cluster.close()
    return claims, details


def _kill_under_load(run: Run, kill: Callable[[], None]) -> dict[str, Any]:
    wanted = [run.submit() for _ in range(_FRAMES)]
    told: Counter[int] = Counter()
    refused = 0
    at: list[float] = []
    killed_s = 0.0
    while len(at) < _FRAMES:
        if len(at) == _FRAMES // 6:
            killed_s = time.monotonic()
            kill()
        outcome = run.next()
        told[outcome.job_id] += 1
        refused += not isinstance(outcome, Done)
        at.append(time.monotonic())
    time.sleep(1.0)
    while not run.delivered.empty():
        told[run.next().job_id] += 1
    after = [one for one in at if one > killed_s]
    return {
        "submitted": len(wanted),
        "answered_once": sum(told[job_id] == 1 for job_id in wanted),
        "refused": refused,
        "longest_gap_s": max(b - a for a, b in zip([killed_s, *after], after, strict=False)),
        "seconds_after_kill": at[-1] - killed_s,
    }


def _until_nodes(run: Run, count: int) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while run.engine.nodes != count:
        if time.monotonic() > deadline_s:
            raise TimeoutError("the cluster does not get there")
        time.sleep(0.05)


PARTS: dict[str, Callable[[str], Part]] = {"overhead": overhead, "nodes": nodes, "deaths": deaths}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print tables or JSON. Returns 0 where all claims hold, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server.engines", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print details as JSON")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), help="some of it")
    args = parser.parse_args(arguments)
    os.environ.update(ray_access.environment(RayTable(address=f"{ray_access.LOOPBACK}:1")))
    claims: list[Claim] = []
    details: dict[str, Any] = {"machine": platform.platform(), "cpus": os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="tails-") as folder:
        for name in args.only:
            more, details[name] = PARTS[name](str(Path(folder) / "files"))
            claims += more
    print(json.dumps(details) if args.json else _tables(details))
    print(json.dumps({"claims": claims}))
    return 0 if all(one["holds"] for one in claims) else 1


def _tables(details: dict[str, Any]) -> str:
    lines = []
    for tail, ways in details.get("overhead", {}).items():
        lines.append(f"{tail} tail: milliseconds")
        for way, found in ways.items():
            lines.append("  " + f"{way:8}" + "   ".join(f"{key[:-3]} {value:7.3f}" for key, value in found.items()))
    lines += [f"{name}: {json.dumps(details[name])}" for name in ("nodes", "deaths") if name in details]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""One measurement of `benchmarks.device` in a process of its own; prints one line of JSON.

local BUNDLE          a locally finished frame and the bare interpreter, in turn
memory CONFIG [CUT ...]  RSS of the whole device program; with its split going round these cuts
swaps CONFIG CASE     the device's parts with their split forced by another planner
hog BUNDLE            how soon a busy process on the same core moves the load estimate
hog-short BUNDLE      the same with a model of a millisecond
clock BUNDLE          the same of a clock whose limit goes down
slow BUNDLE           the same of a processor that is slower and does not tell its clock
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import zmq

from edge_runtime.board.board import RealBoard
from edge_runtime.board.cpu_load import LoadEstimator
from edge_runtime.config import config
from edge_runtime.daemon import daemon
from edge_runtime.daemon.device import make_loop, open_link
from edge_runtime.daemon.models import LoadedModels
from edge_runtime.daemon.plan import Plan
from edge_runtime.daemon.program import Program
from edge_runtime.daemon.sources import open_sources
from edge_runtime.inference.heads import Heads
from edge_runtime.inference.model_files import ModelFiles
from edge_runtime.loop.counters import Counters
from edge_runtime.loop.records import Records
from edge_runtime.planner.planner import Decision, Hysteresis, Planner
from edge_runtime.planner.prediction import Conditions, SplitProfile
from edge_runtime.privacy.ledger import system_now
from edge_runtime.privacy.ledger.opening import open_account
from edge_runtime.privacy.release import Release
from edge_runtime.service.reporter import Reporter
from edge_runtime.sinks import Sinks
from edge_runtime.sources import Answer, Frame
from split_model.bundle import Bundle, Cut
from split_model.service.heartbeats import Heartbeats
from split_model.service.notify import Notifier

#: Splits that the swap benchmark forces; without a swap one runs alone.
CUTS = (20, 42)
CASES = {"first": CUTS[:1], "swapping": CUTS, "second": CUTS[1:]}
_FRAMES_EACH = 2
_FRAMES_EACH_OF_ALL = 40
_TURNS = 620
_WARM_UPS = 20


class Forced(Planner):
    """Goes round its splits, a few frames each, whatever the link and the board are like."""

    def __init__(self, splits: tuple[int, ...], local: int, *, frames_each: int = _FRAMES_EACH) -> None:
        profiles = [SplitProfile(split, 0.01, payload_bytes=1) for split in splits]
        super().__init__([*profiles, SplitProfile(local, 1.0)], local=local, hysteresis=Hysteresis())
        self._before = local
        self._turns = itertools.cycle([split for split in splits for _ in range(frames_each)])

    def decide(self, conditions: Conditions, *, now_s: float, ready: frozenset[int]) -> Decision:
        """The next in turn, once the server is there."""
        decision = super().decide(conditions, now_s=now_s, ready=ready)
        split = next(self._turns)
        chosen = split if split in ready else self.local
        moved_from, self._before = (self._before if chosen != self._before else None), chosen
        return Decision(chosen, moved_from, "forced", decision.predictions)


def _load() -> ModuleType:
    """The module that loads the board; with what it imports it would weigh on `memory`."""
    from benchmarks.device import load

    return load


class _Free:
    """A ledger that pays for everything; nothing is sent here."""

    def payable(self, cuts: Iterable[int], subject: str) -> frozenset[int]:  # noqa: ARG002  its shape
        """All of them."""
        return frozenset(cuts)

    def charge(self, cut: int, subject: str) -> bool:  # noqa: ARG002  its shape
        """Paid."""
        return True


def _no_release(cut: Cut) -> Release:
    raise AssertionError(cut.index)


def local(root: str) -> dict[str, Any]:
    """The frame loop, its records and its sink, with no server there, beside `Interpreter.run` in turn.

    Both sides run the same interpreter on the same inputs: a device has one. Two would be two models, which push
    each other and the program out of the processor's caches. What a mark costs is counted on both sides.

    Returns:
        ``over_s``, the median of the differences between a frame and the bare run just before it, in seconds, and
        ``ratio``, that over the bare runs' median, plus 1. Both are of the quietest quarter of the pairs, in which
        other programs on the machine disturbed neither side. ``cpu_over_s`` and ``cpu_ratio`` are the same of the
        thread's CPU time: a busy machine disturbs it less, but it misses a wait for another thread.

    """
    from edge_runtime.inference.profile import Profile, SplitTiming
    from edge_runtime.link.link_thread import Link
    from edge_runtime.link.transport import Transport
    from edge_runtime.loop.board_work import Models
    from edge_runtime.loop.driver import Driver, Outside, Settings
    from edge_runtime.sinks import JsonLines
    from split_model.protocol.device import DeviceSession
    from split_model.protocol.keys import KeyPair

    bundle = Bundle.open(Path(root))
    inputs = _load().inputs(bundle)
    heads = Heads(ModelFiles(bundle), _no_release, backend=None, threads=1, memory_bytes=1)
    bare = heads.whole
    runs_s = sorted(RealBoard().run(lambda: bare.run(inputs))[1] for _ in range(_WARM_UPS))
    timing = SplitTiming(
        split=bundle.local, head_s=runs_s[_WARM_UPS // 2], head_p95_s=runs_s[-1], release_s=0.0, payload_bytes=0
    )
    profile = Profile(bundle=bundle.identity, backend="", threads=1, slowdown=1.0, release="none", splits=(timing,))
    public, secret = zmq.curve_keypair()
    pair = KeyPair(public=public, secret=secret)
    transport = Transport("tcp://127.0.0.1:9", keys=pair, server_keys=(public,), max_answer_bytes=1)
    link = Link(transport, DeviceSession(boot_id="0" * 32, software="bench"))
    link.start()
    board = RealBoard()
    driver = Driver(
        Models(bundle, heads),
        Outside(board=board, account=_Free(), links=(link,), boot_id="0" * 32),
        planner=Planner([SplitProfile(bundle.local, timing.head_s)], local=bundle.local, hysteresis=Hysteresis()),
        profile=profile,
        load=LoadEstimator(),
        settings=Settings(answer_within_s=1.0),
    )
    records, sink = Records(bundle), JsonLines(Path(os.devnull))
    marks: list[tuple[float, float]] = []  # wall clock, and this thread's CPU time, in seconds

    def mark() -> None:
        marks.append((time.perf_counter(), time.thread_time()))

    def frames() -> Iterator[Frame]:
        for index in range(_TURNS):
            mark()
            bare.run(inputs)
            mark()
            yield Frame(index, "random", tuple(inputs), None, time.monotonic())

    steps = iter(driver.run(frames()))
    mark()
    for _ in range(_TURNS):
        for record in records.of(next(steps)):
            sink.write(record)
        mark()
    driver.close()
    link.stop()
    transport.terminate()
    heads.close()
    return {**_compared("", [wall_s for wall_s, _ in marks]), **_compared("cpu_", [cpu_s for _, cpu_s in marks])}


def _compared(name: str, marks: list[float]) -> dict[str, float]:
    """From three marks a frame: the bare run begins, it is done, and so is the frame."""
    pairs = []
    for turn in range(_WARM_UPS, _TURNS):
        before, begun, done, after = marks[3 * turn : 3 * turn + 4]
        pairs.append((done - begun, (begun - before) + (after - done)))
    quiet = sorted(pairs, key=sum)[: len(pairs) // 4]
    bare_s = statistics.median(one for one, _ in quiet)
    over_s = statistics.median(other - one for one, other in quiet)
    return {f"{name}bare_s": bare_s, f"{name}over_s": over_s, f"{name}ratio": 1.0 + over_s / bare_s}


def _run(loaded: config.Config, planner: Planner) -> None:
    """The parts of the device program, with another planner: answer the frames of a finite source."""
    beats = Heartbeats()
    program = Program(Counters(), beats, 60.0, lambda: False, lambda _: None)
    with contextlib.ExitStack() as closing:
        reporter = Reporter(None, config=Path(), notifier=Notifier(), beats=beats, stopped=lambda: False)
        reporter.start()
        closing.callback(reporter.stop)
        plan, boot_id = Plan.of(loaded), os.urandom(16).hex()
        account = open_account(
            loaded.device.state, loaded.limits, costs=plan.costs, subjects=["default"], now=system_now()
        )
        closing.callback(account.close)
        models = LoadedModels.open(plan, program, closing, keep_profile=True)
        assert models is not None  # it is never told to stop
        keys = plan.read_keys()
        links = tuple(open_link(plan, server, keys, closing, boot_id=boot_id) for server in loaded.servers)
        loop = make_loop(plan, account, models, links, planner, program=program, closing=closing, boot_id=boot_id)
        sinks = Sinks(loaded.sinks)
        closing.callback(sinks.close)
        multiplexer = open_sources(plan, program.stopped)
        closing.callback(multiplexer.close)
        records = Records(plan.bundle)
        for step in loop.run(iter(multiplexer)):
            *moves, record = records.of(step)
            for move in moves:
                sinks.write(move)
            sinks.write(record, step.result.outputs)
            multiplexer.answered(Answer(step.result.frame, record, step.result.outputs))


def memory(path: str, *cuts: str) -> dict[str, Any]:
    """Run the daemon on a finite source: its RSS at the peak, and the median of the second half of the run."""
    loaded = config.load(Path(path))
    local = Bundle.open(loaded.device.bundle).local
    planner = Forced(tuple(map(int, cuts)), local, frames_each=_FRAMES_EACH_OF_ALL) if cuts else None
    service = daemon.Service(Path(path), lambda: loaded, Path(path).with_suffix(".status.json"), Notifier())
    sampled_mb: list[float] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.01):
            sampled_mb.append(_status_mb("VmRSS"))

    sampler = threading.Thread(target=sample)
    sampler.start()
    daemon.run(loaded, service) if planner is None else _run(loaded, planner)
    over.set()
    sampler.join()
    half = sampled_mb[len(sampled_mb) // 2 :]
    # Not getrusage: its peak is inherited from whoever started us.
    return {"peak_mb": _status_mb("VmHWM"), "median_mb": statistics.median(half)}


def _status_mb(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024e-6


def swaps(path: str, case: str) -> dict[str, Any]:
    """Run the device's parts with their splits forced."""
    loaded = config.load(Path(path))
    _run(loaded, Forced(CASES[case], Bundle.open(loaded.device.bundle).local))
    return {}


def main(arguments: list[str]) -> None:
    """Run one of the measurements."""
    what, *rest = arguments
    measurements: dict[str, Callable[..., dict[str, Any]]] = {
        "local": local,
        "memory": memory,
        "swaps": swaps,
        "hog": lambda root: _load().hog(root),
        "hog-short": lambda root: _load().hog_short(root),
        "clock": lambda root: _load().clock(root),
        "slow": lambda root: _load().slow(root),
    }
    print(json.dumps(measurements[what](*rest)))


if __name__ == "__main__":
    main(sys.argv[1:])

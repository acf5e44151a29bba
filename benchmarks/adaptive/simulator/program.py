"""The device program itself in a virtual world: its loop, planner, deadlines and link upkeep are the product's."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from benchmarks.adaptive.simulator.board import BackgroundLoads, BackgroundRuns, VirtualBoard
from benchmarks.adaptive.simulator.clock import Clock
from benchmarks.adaptive.simulator.network import ANSWER_BYTES, Lane, Server, VirtualTransport
from benchmarks.adaptive.simulator.scene import DOWNLINK_MBIT_S, LOAD_RUNS, LOOP_S, WARM_UP_S, Row, Run, Scene
from benchmarks.wire.traces import constant
from edge_runtime.board.cpu_load import LoadEstimator
from edge_runtime.config.config import DeviceTable, PlannerTable
from edge_runtime.inference.local_tails import RestCost, Rests, memory_bytes_of
from edge_runtime.inference.profile import Profile
from edge_runtime.link.estimator import LinkEstimator
from edge_runtime.link.link_thread import Offload
from edge_runtime.loop.runtime import Runtime
from edge_runtime.planner.planner import Planner
from edge_runtime.planner.prediction import SplitProfile
from edge_runtime.sources import Frame
from split_model.bundle.manifest import TensorSpec
from split_model.protocol import messages as wire
from split_model.protocol.device import DeviceSession

#: As the program is shipped: only the deadline is the scene's own.
DEFAULTS = PlannerTable()
HEDGED = PlannerTable(hedge=True)
LOCAL_TAIL_MEMORY_MB = next(
    f.default for f in msgspec.structs.fields(DeviceTable) if f.name == "local_tail_memory_mb"
)


class _Offload(Offload):
    """The link thread without a thread: it takes a turn whenever something happens, as its poll would."""

    def __init__(self, transport: VirtualTransport, *, clock: Clock, estimator: LinkEstimator) -> None:
        session = DeviceSession(boot_id="1" * 32, software="simulator")
        super().__init__(cast(Any, transport), session, now=clock.now, estimator=estimator)
        self._clock = clock
        self._timer = 0
        transport.woken = self.turn
        transport.open()
        clock.at(0.0, self.turn)

    def turn(self) -> None:
        """What the link thread does between two waits, and its next turn after the poll's time-out."""
        self._turn()
        self._run_commands()
        self._send_all()
        self._timer += 1
        timer = self._timer
        self._clock.at(self._clock.now_s + self._timeout_s(), lambda: self.turn() if timer == self._timer else None)

    def wait(self, request_id: int, *, until_s: float, unless: Callable[[], bool] = lambda: False) -> Any:
        """Time passes until there is an outcome."""
        self._clock.run_until(until_s, lambda: request_id in self._outcomes or unless())
        return super().wait(request_id, until_s=self._clock.now_s, unless=unless)


class _Whole:
    backend = "virtual"

    def __init__(self, board: VirtualBoard, work_s: float) -> None:
        self._board = board
        self._work_s = work_s

    def run(self, _: Sequence[Any]) -> list[Any]:
        self._board.charge(self._work_s)
        return [None]


class _Heads:
    """All heads prepared, as after the program's start."""

    def __init__(self, board: VirtualBoard, profile: Profile) -> None:
        self.whole = _Whole(board, profile.local.head_s)
        self._heads = {}
        for timing in profile.splits[:-1]:
            payload = memoryview(bytes(timing.payload_bytes))
            self._heads[timing.split] = SimpleNamespace(
                cut=SimpleNamespace(index=timing.split),
                features=_charging(board, timing.head_s, None),
                made=lambda inputs: inputs,
                release=_Release(board, timing.release_s, payload),
            )

    def prepared(self, split: int) -> Any:
        return self._heads[split]


class _Release:
    protected = True
    whole_input_epsilon = per_value_epsilon_max = 0.0
    descriptor = wire.NoRelease()

    def __init__(self, board: VirtualBoard, work_s: float, payload: memoryview) -> None:
        self.payload_bytes = len(payload)
        self._make = _charging(board, work_s, payload)

    def __call__(self, features: Any) -> memoryview:
        return cast(memoryview, self._make(features))


def _charging(board: VirtualBoard, work_s: float, result: Any) -> Callable[[Any], Any]:
    def work(_: Any) -> Any:
        board.charge(work_s)
        return result

    return work


def _rests(scene: Scene, board: VirtualBoard, heads: _Heads) -> Rests:
    """As many as fit into what the program keeps for them by default, loaded as they are wanted."""
    whole_s = scene.profile.local.head_s
    sizes = {tail.split: tail.tail_bytes for tail in scene.server.tails}
    costs = {
        timing.split: RestCost(
            memory_bytes_of(sizes[timing.split], timing.payload_bytes), max(0.0, whole_s - timing.head_s)
        )
        for timing in scene.profile.splits[:-1]
    }
    return Rests(
        lambda split: _Whole(board, costs[split].seconds),
        costs,
        whole=heads.whole,
        memory_bytes=int(LOCAL_TAIL_MEMORY_MB * 1e6),
        loader=BackgroundLoads(board.clock, each_s=LOAD_RUNS * whole_s),
        now=board.clock.now,
    )


def _bundle(scene: Scene) -> Any:
    outputs = (TensorSpec(name="logits", shape=(1, ANSWER_BYTES // 4), dtype="float32"),)
    cuts = tuple(SimpleNamespace(index=t.split, tail_macs=t.tail_macs) for t in scene.server.tails)
    manifest = SimpleNamespace(name="simulated", outputs=outputs, cuts=cuts)
    return SimpleNamespace(identity=scene.profile.bundle, local=scene.local, manifest=manifest)


class _Free:
    """The simulator has no privacy ledger: every cut can be paid for."""

    def payable(self, cuts: Iterable[int], subject: str) -> frozenset[int]:
        return frozenset(cuts if subject else ())

    def charge(self, cut: int, subject: str) -> bool:
        return bool(subject) and cut >= 0


def _frames(clock: Clock, scene: Scene) -> Iterator[Frame]:
    """One frame every interval, whether or not anybody is ready for it; or the next when the last is answered."""
    start_s = clock.now_s
    for index in itertools.count():
        due_s = start_s + index * scene.interval_s if scene.interval_s else clock.now_s
        clock.run_until(min(due_s, scene.end_s))
        if clock.now_s >= scene.end_s:
            return
        clock.run_until(clock.now_s + LOOP_S)
        yield Frame(index, "frame", (), None, due_s)


def run_program(
    policy: str,
    scene: Scene,
    *,
    estimator: LinkEstimator | None = None,
    fixed: int | None = None,
    table: PlannerTable = DEFAULTS,
    rests: bool = True,
) -> Run:
    """The device program's own loop over the scene's frames; without ``rests`` local runs always begin anew."""
    random.seed(0)  # the pause before a reconnection has jitter
    clock = Clock()
    board = VirtualBoard(clock, scene.hog)
    up = Lane(clock, scene.link, scene.one_way_s, burst_bytes=scene.burst_bytes)
    down = Lane(clock, constant(DOWNLINK_MBIT_S), scene.one_way_s)
    tails = {tail.split: tail.tail_s for tail in scene.server.tails}
    server = Server(clock, scene.profile.bundle, tails)
    transport = VirtualTransport(clock, up, down, server)
    splits = [SplitProfile(t.split, t.head_s, t.release_s, t.payload_bytes) for t in scene.profile.splits]
    planner = Planner(splits, local=scene.local, hysteresis=table.hysteresis, fixed=fixed)
    background = BackgroundRuns(board)
    heads = _Heads(board, scene.profile)
    runtime = Runtime(
        bundle=_bundle(scene),
        heads=cast(Any, heads),
        board=board,
        planner=planner,
        offload=_Offload(transport, clock=clock, estimator=estimator or LinkEstimator()),
        profile=scene.profile,
        boot_id="1" * 32,
        answer_within_s=scene.answer_within_s,
        load=LoadEstimator(board.cpu_load, cpus=4, threads=1),
        rests=_rests(scene, board, heads) if fixed is None and rests else None,
        may_hedge=table.hedge,
        now=clock.now,
        account=_Free(),
        finisher=background,
    )
    rows = []
    for step in runtime.run(_frames(clock, scene)):
        result, rate = step.result, step.view.estimate.uplink_bytes_s
        believed = None if rate is None else rate * 8e-6
        row = Row(result.frame.captured_s - WARM_UP_S, result.split, result.how, result.latency_s, believed)
        if row.captured_s >= 0:
            rows.append(row)
    return Run(policy, tuple(rows), up.sent_bytes, transport.probe_bytes, background.runs)

"""The device program itself in a virtual world: its scheduler, planner and link upkeep are the product's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.adaptive.simulator.board import CPUS, VirtualBoard
from benchmarks.adaptive.simulator.clock import Clock
from benchmarks.adaptive.simulator.driver import VirtualDriver
from benchmarks.adaptive.simulator.link import VirtualLink
from benchmarks.adaptive.simulator.models import Free, VirtualModels
from benchmarks.adaptive.simulator.network import Lane, Server, ServerSide, VirtualTransport
from benchmarks.adaptive.simulator.scene import DOWNLINK_MBIT_S, WARM_UP_S, Row, Run, Scene
from benchmarks.wire.traces import constant
from edge_runtime.board.cpu_load import LoadEstimator
from edge_runtime.board.load_watch import EVERY_S
from edge_runtime.config.config import PlannerTable
from edge_runtime.link.estimator import LinkEstimator
from edge_runtime.loop.counters import Counters
from edge_runtime.loop.decision_inputs import Model
from edge_runtime.loop.frame_decisions import FrameDecisions
from edge_runtime.loop.policies import policy_for
from edge_runtime.loop.scheduler import Scheduler
from edge_runtime.planner.planner import Planner
from edge_runtime.planner.prediction import SplitProfile
from split_model.protocol import messages as wire

#: As the program is shipped: only the deadline is the scene's own.
DEFAULTS = PlannerTable()
HEDGED = PlannerTable(hedge=True)


def run_program(
    name: str,
    scene: Scene,
    *,
    estimator: LinkEstimator | None = None,
    fixed: int | None = None,
    table: PlannerTable = DEFAULTS,
    local_tails: bool = True,
    overlap: bool = True,
) -> Run:
    """The device's scheduler over the scene's frames.

    Without ``local_tails`` local runs always begin anew; without ``overlap`` a frame is under way alone.
    """
    clock = Clock()
    tails = {tail.split: tail.tail_s for tail in scene.server.tails}
    server = Server(clock, scene.profile.bundle, tails)
    device = make_device(
        scene,
        clock,
        server,
        estimator=estimator,
        fixed=fixed,
        table=table,
        local_tails=local_tails,
        overlap=overlap,
    )
    rows = []
    for step in device.driver.run():
        result, rate = step.result, step.view.estimate.uplink_bytes_s
        believed = None if rate is None else rate * 8e-6
        row = Row(result.frame.captured_s - WARM_UP_S, result.split, result.outcome, result.latency_s, believed)
        if row.captured_s >= 0:
            rows.append(row)
    rows.sort(key=lambda row: row.captured_s)
    sent_bytes, probe_bytes = device.uplink.sent_bytes, device.transport.probe_bytes
    return Run(name, tuple(rows), sent_bytes, probe_bytes, device.driver.background_runs)


@dataclass(frozen=True)
class Device:
    """One device program in a virtual world, and its parts that hold results."""

    driver: VirtualDriver
    link: VirtualLink
    transport: VirtualTransport
    uplink: Lane
    counters: Counters


def make_device(
    scene: Scene,
    clock: Clock,
    server: ServerSide,
    *,
    estimator: LinkEstimator | None = None,
    fixed: int | None = None,
    table: PlannerTable = DEFAULTS,
    local_tails: bool = True,
    overlap: bool = True,
    versions: tuple[int, ...] = wire.VERSIONS,
    jitter: Callable[[], float] = lambda: 0.5,
) -> Device:
    """The device program, connected to a server. ``versions``: of the protocol, that it speaks."""
    policy = policy_for(table.objective)
    board = VirtualBoard(clock, scene.hog)
    load = LoadEstimator(cpus=CPUS)
    up = Lane(clock, scene.link, scene.one_way_s, burst_bytes=scene.burst_bytes)
    down = Lane(clock, constant(DOWNLINK_MBIT_S), scene.one_way_s)
    transport = VirtualTransport(clock, up, down, server)
    models = VirtualModels(scene, clock, local_tails=fixed is None and local_tails)
    tail_macs = {tail.split: tail.tail_macs for tail in scene.server.tails}
    splits = [SplitProfile(t.split, t.head_s, t.release_s, t.payload_bytes) for t in scene.profile.splits]
    planner = Planner(
        splits, local=scene.local, hysteresis=table.hysteresis, fixed=fixed, objective=table.objective
    )
    decisions = FrameDecisions(
        Model(scene.profile.bundle, "simulated", scene.local, scene.profile, tail_macs),
        planner,
        policy=policy if overlap else replace(policy, most=1),
        loaded=models,
        account=Free(),
        load=load,
        may_hedge=table.hedge,
        jitter=jitter,
    )
    _watch(load, board, clock, scene.end_s)
    link = VirtualLink(transport, clock=clock, estimator=estimator or LinkEstimator(), versions=versions)
    counters = Counters()
    scheduler = Scheduler(decisions, answer_within_s=scene.answer_within_s, counters=counters)
    driver = VirtualDriver(scheduler, scene, clock=clock, board=board, link=link)
    return Device(driver, link, transport, up, counters)


def _watch(load: LoadEstimator, board: VirtualBoard, clock: Clock, end_s: float) -> None:
    """Read the board as often as the program does."""

    def read() -> None:
        load.read(board.readings())
        if clock.now_s < end_s:
            clock.at(clock.now_s + EVERY_S, read)

    clock.at(0.0, read)

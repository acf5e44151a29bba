"""The policies that ``adaptive`` compares, each over the same frames on the same link.

Two kinds. Those that run in the device program itself (`run_program`): they differ by their estimator or have
their split fixed, and all have the same planner, deadlines and local rescue. And those that need no program
(`run_ideal`): the oracle, which knows the link's future, and plain edge-only, cloud-only and JPEG-then-cloud.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np

from benchmarks.adaptive_world import (
    ANSWER_BYTES,
    FRAME_OVERHEAD_BYTES,
    BackgroundRuns,
    Clock,
    Hog,
    Lane,
    Server,
    VirtualBoard,
    VirtualTransport,
)
from benchmarks.traces import Trace, constant
from edge_runtime.conditions.link import LinkEstimate, LinkEstimator
from edge_runtime.conditions.load import LoadEstimator
from edge_runtime.offload import Offload
from edge_runtime.planner import Conditions, Hysteresis, Planner, SplitProfile
from edge_runtime.profile import Profile
from edge_runtime.runtime import Runtime
from edge_runtime.sources.files import frames
from split_model.bundle.manifest import TensorSpec
from split_model.protocol import messages as wire
from split_model.protocol.chunks import chunk_bytes_for
from split_model.protocol.device import DeviceSession

PROFILES = Path(__file__).parent / "profiles"
#: The program connects and measures for so long before frames count.
WARM_UP_S = 5.0
DELAY_S = 0.02
DOWNLINK_MBIT_S = 20.0
#: As the program's default.
HEDGE_ABOVE = 0.05
_CHUNK_HEADER_BYTES = 2 * FRAME_OVERHEAD_BYTES + 10
_REQUEST_HEADER_BYTES = 2 * FRAME_OVERHEAD_BYTES + 230
_ANSWER_HEADER_BYTES = 2 * FRAME_OVERHEAD_BYTES + 50


class ServerTail(msgspec.Struct, frozen=True, kw_only=True):
    """One tail on the server."""

    split: int
    tail_macs: int
    tail_s: float


class ServerProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What the server takes, and what sending pictures instead of features would (see profiles/README.md)."""

    tails: tuple[ServerTail, ...]
    raw_bytes: int
    jpeg_encode_s: float
    jpeg_decode_s: float
    jpeg_bytes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One board on one link. ``profile`` is that of the board when idle; ``interval_s`` 0 is back-to-back."""

    trace: Trace
    profile: Profile
    server: ServerProfile
    interval_s: float
    answer_within_s: float
    hog: Hog = field(default_factory=Hog)

    @property
    def local(self) -> int:
        """The split that runs everything on the board."""
        return self.profile.local.split

    @property
    def end_s(self) -> float:
        """When the trace has been played once, counted from the clock's zero."""
        return WARM_UP_S + self.trace.duration_s

    @property
    def link(self) -> Trace:
        """The trace, with its own end played before its beginning as a warm-up."""
        return replace(self.trace, start_s=max(0.0, self.trace.duration_s - WARM_UP_S))


@dataclass(frozen=True)
class Row:
    """One frame: when, where it was cut, how it ended, and what the link was believed to be (Mbit/s)."""

    captured_s: float
    split: int
    how: str
    latency_s: float
    believed_mbit_s: float | None = None


@dataclass(frozen=True)
class Run:
    """A policy's frames, the bytes it put on the link in all and in probes, and local runs beside a transfer."""

    policy: str
    rows: tuple[Row, ...]
    sent_bytes: int = 0
    probe_bytes: int = 0
    background_runs: int = 0

    @property
    def mean_s(self) -> float:
        """Mean latency."""
        return float(np.mean([row.latency_s for row in self.rows]))

    @property
    def p95_s(self) -> float:
        """95th percentile of the latency."""
        return float(np.percentile([row.latency_s for row in self.rows], 95))

    def share(self, split: int) -> float:
        """Part of the frames cut there."""
        return sum(row.split == split for row in self.rows) / len(self.rows)


def load_profiles(whole_s: float, *, raw: bool) -> tuple[Profile, ServerProfile]:
    """The board's profile at the speed where the whole model takes ``whole_s``, with or without cut 0."""
    profile = msgspec.json.decode((PROFILES / "efficientnet_lite0.json").read_bytes(), type=Profile)
    server = msgspec.json.decode((PROFILES / "efficientnet_lite0_server.json").read_bytes(), type=ServerProfile)
    factor = whole_s / profile.local.head_s
    splits = tuple(
        msgspec.structs.replace(
            timing,
            head_s=timing.head_s * factor,
            head_p95_s=timing.head_p95_s * factor,
            release_s=timing.release_s * factor,
        )
        for timing in profile.splits
        if raw or timing.split != 0
    )
    server = msgspec.structs.replace(server, jpeg_encode_s=server.jpeg_encode_s * factor)
    return msgspec.structs.replace(profile, splits=splits, slowdown=profile.slowdown * factor), server


# The real program.


class TruthfulEstimator(LinkEstimator):
    """Knows the link's capacity at this very moment, and nothing of its future."""

    def __init__(self, link: Trace) -> None:
        super().__init__()
        self._link = link

    def estimate(self, now_s: float) -> LinkEstimate:
        """The truth."""
        rate = max(100.0, self._link.mbit_s_at(now_s) * 125_000)
        return replace(
            super().estimate(now_s),
            uplink_bytes_s=rate,
            rate_spread=0.0,
            age_s=0.0,
            mean_bytes_s=None,
            silent_s=0.0,
        )


class LastSampleEstimator(LinkEstimator):
    """Believes the newest sample, and is sure of it."""

    def __init__(self) -> None:
        super().__init__(noise=0.0, coherence_s=1e9)

    def estimate(self, now_s: float) -> LinkEstimate:
        """What it was last."""
        return replace(super().estimate(now_s), rate_spread=0.0, age_s=0.0, mean_bytes_s=None)


class OnceEstimator(LinkEstimator):
    """Measured the link once, at the start, as Neurosurgeon's static profile."""

    def __init__(self, link: Trace) -> None:
        super().__init__()
        self._rate = max(100.0, link.bits_between(0.0, WARM_UP_S) / 8 / WARM_UP_S)

    def estimate(self, now_s: float) -> LinkEstimate:
        """What it was at the start."""
        return replace(
            super().estimate(now_s),
            uplink_bytes_s=self._rate,
            rate_spread=0.0,
            age_s=0.0,
            mean_bytes_s=None,
            silent_s=0.0,
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


def run_program(
    policy: str,
    scene: Scene,
    *,
    estimator: LinkEstimator | None = None,
    fixed: int | None = None,
    hysteresis: Hysteresis | None = None,
    hedge_above: float = HEDGE_ABOVE,
) -> Run:
    """The device program's own loop over the scene's frames."""
    random.seed(0)  # the pause before a reconnection has jitter
    clock = Clock()
    board = VirtualBoard(clock, scene.hog)
    up = Lane(clock, scene.link, DELAY_S)
    down = Lane(clock, constant(DOWNLINK_MBIT_S), DELAY_S)
    tails = {tail.split: tail.tail_s for tail in scene.server.tails}
    server = Server(clock, scene.profile.bundle, tails)
    transport = VirtualTransport(clock, up, down, server)
    splits = [SplitProfile(t.split, t.head_s, t.release_s, t.payload_bytes) for t in scene.profile.splits]
    planner = Planner(splits, local=scene.local, hysteresis=hysteresis or Hysteresis(), fixed=fixed)
    background = BackgroundRuns(board, scene.profile.local.head_s)
    runtime = Runtime(
        bundle=_bundle(scene),
        heads=cast(Any, _Heads(board, scene.profile)),
        board=board,
        planner=planner,
        offload=_Offload(transport, clock=clock, estimator=estimator or LinkEstimator()),
        profile=scene.profile,
        boot_id="1" * 32,
        answer_within_s=scene.answer_within_s,
        load=LoadEstimator(board.cpu_load, cpus=4, threads=1),
        hedge_above=hedge_above,
        now=clock.now,
        account=_Free(),
        finisher=background,
    )
    sample = SimpleNamespace(name="frame", tensors=(), label=None)
    source = frames(
        cast(Any, [sample]),
        repeat=0,
        interval_s=scene.interval_s,
        stopped=lambda: clock.now_s >= scene.end_s,
        now=clock.now,
        sleep=lambda seconds: clock.run_until(clock.now_s + seconds),
    )
    rows = []
    for step in runtime.run(source):
        result, rate = step.result, step.view.estimate.uplink_bytes_s
        believed = None if rate is None else rate * 8e-6
        row = Row(result.frame.captured_s - WARM_UP_S, result.split, result.how, result.latency_s, believed)
        if row.captured_s >= 0:
            rows.append(row)
    return Run(policy, tuple(rows), up.sent_bytes, transport.probe_bytes, background.runs)


# Policies that need no program: each frame's latency follows from the link alone.


@dataclass(frozen=True)
class Way:
    """One way to answer a frame: seconds on the board, bytes on the link, seconds on the server."""

    split: int
    board_s: float
    payload_bytes: int = 0
    tail_s: float = 0.0


def ways(scene: Scene) -> list[Way]:
    """The splits of the profile."""
    tails = {tail.split: tail.tail_s for tail in scene.server.tails}
    return [
        Way(t.split, t.head_s + t.release_s, t.payload_bytes, tails.get(t.split, 0.0)) for t in scene.profile.splits
    ]


def sent_bytes(payload_bytes: int) -> int:
    """A payload with the headers of its chunks."""
    chunks = -(-payload_bytes // chunk_bytes_for(payload_bytes))
    return payload_bytes + _REQUEST_HEADER_BYTES + (chunks - 1) * _CHUNK_HEADER_BYTES


def answered_s(scene: Scene, way: Way, start_s: float) -> float:
    """When a frame started then is answered, on a link that nothing else uses."""
    done_s = start_s + scene.hog.took_s(way.board_s, start_s)
    if way.payload_bytes == 0:
        return done_s
    through_s = scene.link.finish_s(done_s, sent_bytes(way.payload_bytes) * 8)
    back_s = (ANSWER_BYTES + _ANSWER_HEADER_BYTES) * 8 / (DOWNLINK_MBIT_S * 1e6)
    return through_s + 2 * DELAY_S + way.tail_s + back_s


def run_ideal(policy: str, scene: Scene, choices: Callable[[float], Sequence[Way]]) -> Run:
    """Each frame goes the way that is answered first, of those it may choose from when it starts; one at a time.

    With all splits to choose from this is the oracle: it knows the capacity that each transfer will meet, and
    being done first is best for the frames behind, too.
    """
    rows = []
    free_s = 0.0 if scene.interval_s else WARM_UP_S
    for index in itertools.count():
        captured_s = index * scene.interval_s if scene.interval_s else free_s
        if captured_s >= scene.end_s:
            break
        start_s = max(captured_s, free_s)
        free_s, split = min((answered_s(scene, way, start_s), way.split) for way in choices(start_s))
        if captured_s >= WARM_UP_S:
            rows.append(Row(captured_s - WARM_UP_S, split, "ideal", free_s - captured_s))
    return Run(policy, tuple(rows))


def run_perfect_rate(scene: Scene) -> Run:
    """Plans as published planners do: hysteresis, the capacity of this moment taken for the transfer's, no rescue.

    It knows that capacity perfectly, and the board's load as well.
    """
    options = {way.split: way for way in ways(scene)}
    splits = [SplitProfile(w.split, w.board_s, 0.0, w.payload_bytes, w.tail_s) for w in options.values()]
    planner = Planner(splits, local=scene.local, hysteresis=Hysteresis())

    def choose(start_s: float) -> Sequence[Way]:
        rate = max(100.0, scene.link.mbit_s_at(start_s) * 125_000)
        link = LinkEstimate(uplink_bytes_s=rate, rtt_s=2 * DELAY_S, rate_spread=0.0, age_s=0.0)
        load = scene.hog.took_s(1e-6, start_s) / 1e-6
        conditions = Conditions(link=link, link_up=True, load=load)
        return [options[planner.decide(conditions, now_s=start_s, ready=frozenset(options)).split]]

    return run_ideal("perfect rate", scene, choose)


def run_oracle(scene: Scene) -> Run:
    """The best split for every frame, in hindsight."""
    options = ways(scene)
    return run_ideal("oracle", scene, lambda _: options)


def run_edge_only(scene: Scene) -> Run:
    """Everything on the board."""
    options = [Way(scene.local, scene.profile.local.head_s)]
    return run_ideal("edge-only", scene, lambda _: options)


def run_cloud_only(scene: Scene) -> Run:
    """The input as it is, one byte a value; no release, no rescue."""
    options = [Way(0, 0.0, scene.server.raw_bytes, scene.server.tails[0].tail_s)]
    return run_ideal("cloud-only", scene, lambda _: options)


def run_jpeg(scene: Scene) -> Run:
    """The input as a JPEG, quality 75; no release, no rescue."""
    server = scene.server
    tail_s = server.tails[0].tail_s + server.jpeg_decode_s
    sizes = itertools.cycle(server.jpeg_bytes)
    return run_ideal("JPEG-then-cloud", scene, lambda _: [Way(0, server.jpeg_encode_s, next(sizes), tail_s)])

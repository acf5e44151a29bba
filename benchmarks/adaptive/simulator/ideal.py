"""Policies that need no program: each frame's latency follows from the link alone, all costs known.

The oracle knows the link's future. Edge-only, cloud-only and JPEG-then-cloud have no choice. The perfect rate plans
as published planners do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.adaptive.simulator.network import ANSWER_BYTES, FRAME_OVERHEAD_BYTES
from benchmarks.adaptive.simulator.scene import DOWNLINK_MBIT_S, LOOP_S, WARM_UP_S, Row, Run, Scene
from edge_runtime.link.estimator import LinkEstimate
from edge_runtime.planner.planner import Hysteresis, Planner
from edge_runtime.planner.prediction import Conditions, SplitProfile
from split_model.protocol.chunks import chunk_bytes_for

_CHUNK_HEADER_BYTES = 2 * FRAME_OVERHEAD_BYTES + 10
_REQUEST_HEADER_BYTES = 2 * FRAME_OVERHEAD_BYTES + 230
_ANSWER_HEADER_BYTES = 2 * FRAME_OVERHEAD_BYTES + 50


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
    """Return when a frame is answered that starts at this time, on a link without other traffic."""
    done_s = start_s + LOOP_S + scene.hog.took_s(way.board_s, start_s + LOOP_S)
    if way.payload_bytes == 0:
        return done_s
    through_s = scene.link.finish_s(done_s, sent_bytes(way.payload_bytes) * 8)
    back_s = (ANSWER_BYTES + _ANSWER_HEADER_BYTES) * 8 / (DOWNLINK_MBIT_S * 1e6)
    return through_s + 2 * scene.one_way_s + way.tail_s + back_s


def run_ideal(policy: str, scene: Scene, choices: Callable[[float], Sequence[Way]]) -> Run:
    """Run frames one at a time, each by the permitted way that answers it first.

    With all splits permitted this is the oracle: it knows the future capacity for each transfer. The earliest end
    is also best for the frames that follow.
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
        link = LinkEstimate(uplink_bytes_s=rate, rtt_s=2 * scene.one_way_s, rate_spread=0.0, age_s=0.0)
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
    """Send the unchanged input, one byte per value; no release, no rescue."""
    options = [Way(0, 0.0, scene.server.raw_bytes, scene.server.tails[0].tail_s)]
    return run_ideal("cloud-only", scene, lambda _: options)


def run_permitted(scene: Scene) -> Run:
    """Cloud-only where the input itself may not be sent: always the earliest cut that is offered; no rescue."""
    earliest = ways(scene)[0]
    return run_ideal("cloud-only as permitted", scene, lambda _: [earliest])


def run_jpeg(scene: Scene) -> Run:
    """The input as a JPEG, quality 75; no release, no rescue."""
    server = scene.server
    tail_s = server.tails[0].tail_s + server.jpeg_decode_s
    sizes = itertools.cycle(server.jpeg_bytes)
    return run_ideal("JPEG-then-cloud", scene, lambda _: [Way(0, server.jpeg_encode_s, next(sizes), tail_s)])

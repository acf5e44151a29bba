"""A fleet with more demand than its server's capacity, in virtual time: its steady state, and the devices' moves.

    python -m benchmarks.server.fleet [--devices N] [--seconds S] [--json]

Two hundred boards of three speeds behind three uplinks, with frames for half as much again as two workers can do.
The devices run the product's scheduler, planner, link and protocol, the server its protocol, admission and fair
queue; boards, links and tails only take time. Beside it the same devices over protocol 1, which does not tell
them how busy the server is: there the back-off alone has to do. A move is a change of the split that a device's
planner makes, to the server and back as well as between two cuts. Ends with one line of claims. Takes some minutes:
half a CPU second for each second of 200 devices, twice.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

from benchmarks.server.claims import Claim, claim
from benchmarks.server.virtual_fleet import FleetScene, Played, play
from split_model.report.summary import percentile


@dataclass(frozen=True)
class Settled:
    """What a fleet did after its warm-up.

    ``busy``: share of the workers' time that was used. ``variation``: of the answers in each second, standard
    deviation over mean. ``moves``: a minute, mean and 95th percentile over the devices. ``wasted``: share of the
    used time that went into answers that nobody took. ``latency``: mean, over that of local runs only. ``late``:
    share of frames that were answered too late. ``lost``: share of the releases that were refused.
    """

    frames: int
    outcomes: dict[str, int]
    answers_s: float
    busy: float
    variation: float
    moves_mean: float
    moves_p95: float
    wasted: float
    latency: float
    late: float
    lost: float
    wait_mean_ms: float
    asks_s: float


def settled(played: Played) -> Settled:
    """Return the figures of a play."""
    scene, server = played.scene, played.server
    seconds = scene.seconds - scene.warm_up_s
    counted = list(played.counted())
    by_second = Counter(int(at_s - scene.warm_up_s) for at_s in server.answered_s if at_s >= scene.warm_up_s)
    answers = [by_second[second] for second in range(int(seconds))]
    moves = [
        sum(frame.moved for frame in member.frames if frame.at_s >= scene.warm_up_s) / seconds * 60.0
        for member in played.members
    ]
    sent = sum(frame.sent for _, frame in counted)
    refused = sum(at_s >= scene.warm_up_s for at_s, _ in server.refusals)
    waits_s = [wait_s for at_s, wait_s in server.waits_s if at_s >= scene.warm_up_s]
    return Settled(
        frames=len(counted),
        outcomes=dict(Counter(frame.outcome for _, frame in counted)),
        answers_s=statistics.fmean(answers),
        busy=server.busy_s / (scene.workers * scene.seconds),
        variation=statistics.pstdev(answers) / max(1e-9, statistics.fmean(answers)),
        moves_mean=statistics.fmean(moves),
        moves_p95=percentile(moves, 0.95),
        wasted=server.wasted_s / max(1e-9, server.busy_s),
        latency=statistics.fmean(frame.latency_s / member.whole_s for member, frame in counted),
        late=sum(frame.latency_s > member.answer_within_s for member, frame in counted) / len(counted),
        lost=refused / max(1, sent),
        wait_mean_ms=statistics.fmean(waits_s) * 1e3 if waits_s else 0.0,
        asks_s=server.asked / scene.seconds,
    )


def claims(found: Settled) -> list[Claim]:
    """Return the claims that define a calm fleet."""
    return [
        claim("share of the workers' time that is used", found.busy, 0.9, at_least=True),
        claim("variation of the answers a second", found.variation, 0.1),
        claim("moves of a device a minute, mean", found.moves_mean, 2.0),
        claim("moves of a device a minute, p95", found.moves_p95, 6.0),
        claim("share of the workers' time for answers that came too late", found.wasted, 0.01),
        claim("share of frames answered late", found.late, 0.005),
        claim("share of releases that were refused", found.lost, 0.01),
        claim("mean latency over that of local runs", found.latency, 1.0),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.server.fleet", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--devices",
        type=int,
        default=200,
        help="number of devices; the simulated server's power grows in proportion (default: 200)",
    )
    parser.add_argument(
        "--seconds", type=float, default=180.0, help="virtual seconds, 60 of them not counted (default: 180)"
    )
    parser.add_argument("--json", action="store_true", help="print details as JSON")
    options = parser.parse_args(arguments)
    scene = FleetScene(
        devices=options.devices, seconds=options.seconds, tail_factor=FleetScene.tail_factor * 200 / options.devices
    )
    scenes = {"as it ships": scene, "devices of protocol version 1": replace(scene, versions=(1,))}
    with ProcessPoolExecutor(min(len(scenes), os.cpu_count() or 1)) as pool:
        found = dict(zip(scenes, pool.map(_settled, scenes.values()), strict=True))
    for name, one in found.items():
        print(json.dumps({name: vars(one)}) if options.json else f"{name}: {_told(one)}")
    print(json.dumps({"claims": claims(found["as it ships"])}))
    return os.EX_OK


def _settled(scene: FleetScene) -> Settled:
    return settled(play(scene))


def _told(found: Settled) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in vars(found).items()
    )


if __name__ == "__main__":
    sys.exit(main())

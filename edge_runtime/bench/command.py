"""Runs the parts of the benchmark and makes its report; callers pass functions that open files and sockets."""

from __future__ import annotations

import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

import msgspec

from edge_runtime.bench.cuts import Bench
from edge_runtime.bench.figures import FORMAT, CutFigures, LinkFigures, Recommendation, Report
from edge_runtime.bench.link import Sample
from edge_runtime.bench.power import SerialMeter
from edge_runtime.bench.recommend import recommend
from edge_runtime.board.board import Board
from edge_runtime.board.sensors import Readings, Sensors
from edge_runtime.inference.heads import Heads
from edge_runtime.inference.profile import Profile, SplitTiming
from edge_runtime.planner.accuracy import Accuracy
from edge_runtime.planner.prediction import Objective
from split_model import __version__
from split_model.bundle import Bundle

_IDLE_S = 3.0
#: Each server's link, and the seconds of its tails.
MeasureLinks = Callable[[Mapping[int, Sample]], Sequence[tuple[LinkFigures, dict[int, float]]]]


@dataclass(frozen=True)
class Options:
    """What the command line asks for. ``server``: measure the link too. ``power_meter``: a serial device."""

    runs: int = 30
    server: bool = True
    power_meter: str | None = None
    power_baud: int = 115_200


@dataclass(frozen=True)
class Parts:
    """What is measured, opened. ``rss_before_bytes``: before the backend was loaded; ``release``: its name."""

    bundle: Bundle
    heads: Heads
    board: Board
    sensors: Sensors
    allowed: frozenset[int]
    accuracy: Accuracy
    release: str
    threads: int
    objective: Objective
    rss_before_bytes: int | None


def run(
    parts: Parts, options: Options, measure_links: MeasureLinks, progress: Callable[[str], None]
) -> tuple[Report, Profile]:
    """Measure everything; the report, and the profile that the daemon uses."""
    meter = None if options.power_meter is None else SerialMeter(options.power_meter, baud=options.power_baud)
    try:
        idle_watts = None
        if meter is not None:
            meter.start()
            idle_watts = _idle_watts(meter)
        return _run(
            parts, options, meter=meter, idle_watts=idle_watts, measure_links=measure_links, progress=progress
        )
    finally:
        if meter is not None:
            meter.stop()


def _idle_watts(meter: SerialMeter) -> float | None:
    meter.wait_for_reading(_IDLE_S)
    started_s = time.monotonic()
    time.sleep(_IDLE_S)
    ended_s = time.monotonic()
    joules = meter.joules(started_s, ended_s)
    return None if joules is None else joules / (ended_s - started_s)


def _run(
    parts: Parts,
    options: Options,
    *,
    meter: SerialMeter | None,
    idle_watts: float | None,
    measure_links: MeasureLinks,
    progress: Callable[[str], None],
) -> tuple[Report, Profile]:
    manifest = parts.bundle.manifest
    before = parts.sensors.read()
    bench = Bench(
        bundle=parts.bundle,
        heads=parts.heads,
        board=parts.board,
        sensors=parts.sensors,
        runs=options.runs,
        allowed=parts.allowed,
        meter=meter,
        idle_watts=idle_watts,
    )
    progress(f"measuring the whole model: {options.runs} runs")
    local = bench.local(parts.rss_before_bytes)
    cuts = []
    for number, cut in enumerate(manifest.cuts, 1):
        progress(f"measuring cut {cut.index} ({number} of {len(manifest.cuts)})")
        known = parts.accuracy[cut.index]
        cuts.append(
            msgspec.structs.replace(
                bench.cut(cut.index),
                agreement=known.agreement,
                agreement_bound=known.bound,
                pictures=known.pictures,
            )
        )
    after = parts.sensors.read()
    shares = {cut.index: cut.tail_macs / max(1, manifest.macs) for cut in manifest.cuts}
    links: Sequence[tuple[LinkFigures, dict[int, float]]] = ()
    if options.server:
        progress("measuring the link to each server")
        links = measure_links(_samples(bench, parts))
    figures, link, recommendation = _best(
        (*cuts, local),
        links,
        lambda cuts, link: recommend(cuts, link, tail_shares=shares, objective=parts.objective),
    )
    report = Report(
        format=FORMAT,
        bundle=manifest.name,
        bundle_identity=parts.bundle.identity,
        backend=parts.heads.whole.backend,
        threads=parts.threads,
        release=parts.release,
        slowdown=parts.board.slowdown,
        machine=f"{platform.machine()} {platform.system()} {platform.release()}",
        cpus=os.cpu_count() or 1,
        software=_software(parts.heads.whole.backend),
        cpu_load_before=before.cpu_load,
        idle_watts=idle_watts,
        rss_bytes=after.rss_bytes,
        temperature_before_c=before.temperature_c,
        temperature_after_c=after.temperature_c,
        throttled_since_boot=_since_boot(after),
        cuts=figures,
        link=link,
        links=tuple(link for link, _ in links),
        recommendation=recommendation,
    )
    return report, _profile(report)


def _best(
    cuts: tuple[CutFigures, ...],
    links: Sequence[tuple[LinkFigures, dict[int, float]]],
    recommended: Callable[[Sequence[CutFigures], LinkFigures | None], Recommendation],
) -> tuple[tuple[CutFigures, ...], LinkFigures | None, Recommendation]:
    """The cuts with the tails of the server that answers soonest, its link, and the best split there."""
    if not links:
        return cuts, None, recommended(cuts, None)
    found = []
    for link, tails in links:
        timed = tuple(msgspec.structs.replace(cut, tail_s=tails.get(cut.split)) for cut in cuts)
        found.append((timed, link, recommended(timed, link)))

    def sooner(one: tuple[tuple[CutFigures, ...], LinkFigures, Recommendation]) -> tuple[float, bool]:
        frame_s = one[2].frame_s
        return math.inf if frame_s is None else frame_s, not one[1].reachable

    return min(found, key=sooner)


def _samples(bench: Bench, parts: Parts) -> dict[int, Sample]:
    """A release of random numbers at every cut that may be used."""
    samples = {}
    for cut in parts.bundle.manifest.cuts:
        if cut.index in parts.allowed:
            head = parts.heads.load(cut.index)
            samples[cut.index] = Sample(head.release(head.features(bench.inputs)), head.release.descriptor)
    return samples


def _software(backend: str) -> str:
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    return f"split-runtime {__version__}, {backend} {metadata.version(backend)}, {python}"


def _since_boot(readings: Readings) -> tuple[str, ...] | None:
    return None if readings.throttling is None else readings.throttling.since_boot


def _profile(report: Report) -> Profile:
    return Profile(
        bundle=report.bundle_identity,
        backend=report.backend,
        threads=report.threads,
        slowdown=report.slowdown,
        release=report.release,
        splits=tuple(_timing(cut) for cut in report.cuts),
    )


def _timing(cut: CutFigures) -> SplitTiming:
    return SplitTiming(
        split=cut.split,
        head_s=cut.head.p50_s,
        head_p95_s=cut.head.p95_s,
        release_s=cut.release.p50_s,
        payload_bytes=cut.payload_bytes,
    )

"""Times every split on this board: load, first run, warm-up until it is steady, then the runs that count."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_runtime.bench.figures import CutFigures, Spread
from edge_runtime.bench.power import Meter
from edge_runtime.board.board import Board
from edge_runtime.board.sensors import Readings, Sensors
from edge_runtime.inference.heads import Head, Heads
from edge_runtime.inference.memory import give_back
from edge_runtime.inference.profile import plausible
from split_model.arrays import Array
from split_model.bundle import Bundle

_MOST_WARM_UPS = 8
#: Two runs in a row that differ by no more than this share are steady.
_STEADY = 0.1
#: Readings of a power meter that are enough for the energy of a cut; a slow meter gets no more time than this.
_READINGS = 10
_METERED_S = 5.0


@dataclass(frozen=True)
class Bench:
    """Measures the splits of one bundle on one board."""

    bundle: Bundle
    heads: Heads
    board: Board
    sensors: Sensors
    runs: int
    allowed: frozenset[int]
    meter: Meter | None = None
    idle_watts: float | None = None
    now: Callable[[], float] = time.monotonic

    @property
    def inputs(self) -> list[Array]:
        """One frame of the model's inputs."""
        return plausible(self.bundle.manifest.inputs)

    def local(self, rss_before_bytes: int | None) -> CutFigures:
        """The whole model; ``rss_before_bytes`` from before the backend was loaded."""
        whole = self.heads.whole
        inputs = self.inputs
        before = self.sensors.read()
        measured = self._measure(lambda: self.board.run(lambda: whole.run(inputs))[1], lambda: 0.0)
        after = self.sensors.read()
        grown = None if rss_before_bytes is None else _grown(rss_before_bytes, after)
        return self._figures(self.bundle.local, measured, before=before, after=after, rss_delta_bytes=grown)

    def cut(self, split: int) -> CutFigures:
        """Measure one offered cut; its head is loaded for this and dropped afterwards."""
        gc.collect()
        give_back(self.heads.whole)
        self.heads.whole.run(self.inputs)  # what running needs is in memory before and after
        before = self.sensors.read()
        started_s = self.now()
        head = self.heads.load(split)
        load_s = self.now() - started_s
        measured = self._measure(*self._stages(head))
        after = self.sensors.read()
        grown = None if before.rss_bytes is None else _grown(before.rss_bytes, after)
        return self._figures(
            split, measured, before=before, after=after, rss_delta_bytes=grown, load_s=load_s, head=head
        )

    def _stages(self, head: Head) -> tuple[Callable[[], float], Callable[[], float]]:
        """Two functions: run the head, then the release of its features; each returns its seconds."""
        inputs = self.inputs
        features: list[Array] = []

        def run_head() -> float:
            nonlocal features
            features, took_s = self.board.run(lambda: head.features(inputs))
            return took_s if head.cut.head is not None else 0.0

        def run_release() -> float:
            return self.board.run(lambda: head.release(features))[1]

        return run_head, run_release

    def _measure(self, head: Callable[[], float], release: Callable[[], float]) -> _Measured:
        warm = [(head(), release())]
        while len(warm) < _MOST_WARM_UPS and not (len(warm) > 1 and _steady(sum(warm[-2]), sum(warm[-1]))):
            warm.append((head(), release()))
        pairs = [(head(), release()) for _ in range(self.runs)]
        joules, over_idle = self._energy(head, release) if self.meter is not None else (None, None)
        return _Measured(sum(warm[0]), len(warm), [p[0] for p in pairs], [p[1] for p in pairs], joules, over_idle)

    def _energy(self, head: Callable[[], float], release: Callable[[], float]) -> tuple[float | None, float | None]:
        """Joules per frame, over a run long enough for the meter; None if it gave too few readings."""
        assert self.meter is not None
        started_s = self.now()
        frames = 0
        enough = self.meter.readings() + _READINGS
        while frames < self.runs or (self.meter.readings() < enough and self.now() - started_s < _METERED_S):
            head()
            release()
            frames += 1
        ended_s = self.now()
        joules = self.meter.joules(started_s, ended_s)
        if joules is None:
            return None, None
        idle = None if self.idle_watts is None else max(0.0, joules - self.idle_watts * (ended_s - started_s))
        return joules / frames, None if idle is None else idle / frames

    def _figures(
        self,
        split: int,
        measured: _Measured,
        *,
        before: Readings,
        after: Readings,
        rss_delta_bytes: int | None,
        load_s: float | None = None,
        head: Head | None = None,
    ) -> CutFigures:
        release = None if head is None else head.release
        protected = release is not None and release.protected
        return CutFigures(
            split=split,
            name="local" if head is None else str(split),
            allowed=head is None or split in self.allowed,
            head=Spread.of(measured.head_s),
            release=Spread.of(measured.release_s),
            payload_bytes=0 if release is None else release.payload_bytes,
            first_s=measured.first_s,
            warm_up_runs=measured.warm_up_runs,
            runs=self.runs,
            load_s=load_s,
            rss_delta_bytes=rss_delta_bytes,
            temperature_before_c=before.temperature_c,
            temperature_after_c=after.temperature_c,
            throttled=_seen(before, after),
            per_value_epsilon_max=release.per_value_epsilon_max if release is not None and protected else None,
            whole_input_epsilon=release.whole_input_epsilon if release is not None and protected else None,
            joules_per_frame=measured.joules,
            joules_over_idle=measured.joules_over_idle,
        )


@dataclass(frozen=True)
class _Measured:
    first_s: float
    warm_up_runs: int
    head_s: Sequence[float]
    release_s: Sequence[float]
    joules: float | None
    joules_over_idle: float | None


def _steady(one_s: float, other_s: float) -> bool:
    return abs(one_s - other_s) <= _STEADY * max(one_s, other_s)


def _grown(before_bytes: int, after: Readings) -> int | None:
    return None if after.rss_bytes is None else max(0, after.rss_bytes - before_bytes)


def _seen(before: Readings, after: Readings) -> tuple[str, ...] | None:
    """Reasons for throttling at the start or the end; None if the board does not report them."""
    told = [readings.throttling for readings in (before, after) if readings.throttling is not None]
    return tuple(sorted({reason for throttling in told for reason in throttling.now})) if told else None

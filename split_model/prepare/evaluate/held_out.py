"""Measures every cut's agreement with the unsplit model over a ladder of releases, for `prepare`.

Each picture goes through releases whose clip ranges and allocation were learned without it (`evaluate.judging`).
Features are computed once per cut. The noise is drawn from a seeded generator: the pictures are public and need no
protection, and the same inputs give the same figures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no stubs

from split_model.arrays import Array
from split_model.bundle import Bundle, Cut
from split_model.bundle.evaluation import Prepared, Row
from split_model.interpreter import Interpreter, open_interpreter
from split_model.prepare.assemble import Progress
from split_model.prepare.calibrate.bundle_calibration import Taught
from split_model.prepare.codebook.codebooks import LearnedCodebooks
from split_model.prepare.evaluate.held_out_codebooks import codebook_rows
from split_model.prepare.evaluate.judging import FigureOptions, Truth, as_row, judge
from split_model.prepare.outputs import real_outputs
from split_model.privacy import (
    ALLOCATIONS,
    AllocationWish,
    NoisePlan,
    NoiseRelease,
    NoiseSpec,
    default_bits,
    recover,
    settle,
)
from split_model.privacy.grid import least_epsilon
from split_model.privacy.plan import DEFAULT_EPSILON

Inputs = tuple[Array, ...]
#: From a picture's features to the tail's inputs.
_Way = Callable[[Sequence[Array]], Sequence[Array]]


def measure_prepared(
    bundle: Bundle,
    taught: Sequence[Taught],
    books: LearnedCodebooks,
    options: FigureOptions,
    *,
    unit: Literal["pictures", "samples"],
    progress: Progress,
) -> Prepared:
    """Measure every cut of a bundle under noise, and every codebook.

    Args:
        bundle: The bundle, complete except for the figures.
        taught: The results of each half of the calibration data; empty for one picture or none.
        books: The data of the codebooks, with the held-out samples.
        options: The releases to measure.
        unit: The name of a sample of the calibration data.
        progress: Called after each release.

    """
    whole = open_interpreter(bundle.path(bundle.manifest.model))
    inputs = [one for half in taught for one in half.measured]
    truth = Truth(bundle, [real_outputs(whole, one) for one in inputs])
    sides = [side for side, half in enumerate(taught) for _ in half.measured]
    cuts = [cut for cut in bundle.manifest.cuts if cut.calibration is not None] if inputs else []
    setting = _Setting(bundle, inputs, sides, taught, truth, options)
    jobs = [_NoiseJob(setting, cut) for cut in cuts]
    steps = _Steps(sum(len(job.cells) for job in jobs), progress)
    rows: list[Row] = []
    # As in calibration: BLAS's threads would compete with our own for the cores.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(max_workers=options.threads) as pool:
        for made in pool.map(lambda job: job.run(steps.advance), jobs):
            rows += made
    rows += codebook_rows(bundle, books, options)
    return Prepared(measure=truth.measure.text, unit=unit, available=len(inputs), rows=tuple(rows))


@dataclass(frozen=True)
class _Setting:
    """The shared settings of all cuts' jobs. ``sides``: for each input the half that calibrated its release."""

    bundle: Bundle
    inputs: Sequence[Inputs]
    sides: Sequence[int]
    taught: Sequence[Taught]
    truth: Truth
    options: FigureOptions


class _NoiseJob:
    """All noise releases of one cut. ``cells``: each by the user's wish, and as it is stored."""

    def __init__(self, setting: _Setting, cut: Cut) -> None:
        self._setting, self._cut = setting, cut
        self.cells = list(_cells(cut, setting.options))

    def run(self, advance: Callable[[], None]) -> list[Row]:
        """The rows of the cut."""
        bundle, cut = self._setting.bundle, self._cut
        tail = open_interpreter(bundle.path(cut.tail))
        aware = {noisy.epsilon: open_interpreter(bundle.path(noisy.tail)) for noisy in cut.noise_tails}
        head = None if cut.head is None else open_interpreter(bundle.path(cut.head))
        # A head returns views of its own memory.
        features = [
            list(one) if head is None else [np.array(made) for made in head.run(one)]
            for one in self._setting.inputs
        ]
        rows = []
        for number, (wish, spec) in enumerate(self.cells):
            rows.append(self._row(number, wish, spec, aware.get(spec.epsilon, tail), features))
            advance()
        return rows

    def _row(
        self, number: int, wish: AllocationWish, spec: NoiseSpec, tail: Interpreter, features: Sequence[list[Array]]
    ) -> Row:
        ways = [self._way(number, side, wish, spec) for side in range(len(self._setting.taught))]

        def once(picture: int) -> tuple[float, float]:
            return self._setting.truth.judge(
                picture, real_outputs(tail, ways[self._setting.sides[picture]](features[picture]))
            )

        order = np.random.default_rng(self._setting.options.seed).permutation(len(features)).tolist()
        cut = self._cut
        plan = NoisePlan.make(spec, cut.tensors, cut.calibration or ())
        aware = spec.epsilon in {noisy.epsilon for noisy in cut.noise_tails}
        return as_row(cut, plan, judge(order, once, self._setting.options), aware=aware)

    def _way(self, number: int, side: int, wish: AllocationWish, spec: NoiseSpec) -> _Way:
        """Return the way through a half's release."""
        taught, cut, seed = self._setting.taught[side], self._cut, self._setting.options.seed
        allocation = taught.allocation(cut.index, spec.epsilon) if wish == "auto" else wish
        own = NoiseSpec(epsilon=spec.epsilon, allocation=allocation, bits=spec.bits)
        plan = NoisePlan.make(own, cut.tensors, taught.calibrations[cut.index])
        release = NoiseRelease(plan, entropy=np.random.default_rng((seed, cut.index, number, side)).bytes)
        return lambda features: recover(plan, release(features))


def _cells(cut: Cut, options: FigureOptions) -> Iterator[tuple[AllocationWish, NoiseSpec]]:
    """The releases to measure at a cut: the wish of the user, and its plan."""
    aware = tuple(noisy.epsilon for noisy in cut.noise_tails)
    ladder = [(epsilon, bits) for epsilon in (*options.epsilons, *aware) for bits in options.bits]
    ladder += [(epsilon, default_bits(epsilon)) for epsilon in options.more_epsilons]
    for epsilon, bits in dict.fromkeys(ladder):
        if epsilon < least_epsilon(bits):
            continue
        auto = settle("auto", cut, epsilon)
        yield "auto", NoiseSpec(epsilon=epsilon, allocation=auto, bits=bits)
        if epsilon in (DEFAULT_EPSILON, *aware) and bits == default_bits(epsilon):
            for other in ALLOCATIONS:
                if other != auto:
                    yield other, NoiseSpec(epsilon=epsilon, allocation=other, bits=bits)


class _Steps:
    """Counts releases over all threads."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total, self._progress = total, progress
        self._done = 0
        self._lock = threading.Lock()

    def advance(self) -> None:
        with self._lock:
            self._done += 1
            self._progress("measuring agreement", self._done, self._total)

"""What `prepare` measures of every cut: the agreement with the unsplit model, over a ladder of releases.

Each picture goes through releases whose clip ranges and allocation were learned without it. Pictures are the unit:
those of a release that clearly fails are not all looked at, and one that may pass is drawn several times a picture.
Features are computed once a cut. The noise is drawn from a seeded generator: nothing here needs protection, the
pictures are public, and the same inputs give the same figures.
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
from split_model.bundle import Bundle, Codebook, Cut
from split_model.bundle.evaluation import Prepared, Row
from split_model.bundle.floor import Floor
from split_model.interpreter import Interpreter, open_interpreter
from split_model.prepare.assemble import Progress
from split_model.prepare.calibrate.bundle_calibration import Taught
from split_model.prepare.codebook.codebooks import LearnedCodebooks
from split_model.prepare.evaluate.agreement import Measure, measure_for
from split_model.prepare.evaluate.intervals import bootstrap, lower_bound, upper_bound, wilson
from split_model.prepare.outputs import Floats, Spread, output_weights, real_outputs, squared_errors
from split_model.privacy import (
    ALLOCATIONS,
    AllocationWish,
    CodebookPlan,
    CodebookRelease,
    CodebookSpec,
    NoisePlan,
    NoiseRelease,
    NoiseSpec,
    default_bits,
    recover,
    recover_codebook,
    settle,
)
from split_model.privacy.codebook_file import read_decoder, read_encoder
from split_model.privacy.grid import least_epsilon
from split_model.privacy.plan import DEFAULT_EPSILON
from split_model.privacy.randomised_response import MAX_EPSILON

Inputs = tuple[Array, ...]
#: From the features of a picture to those that the tail gets.
_Way = Callable[[Sequence[Array]], Sequence[Array]]

#: Pictures looked at before a release may be found to fail, and how sure that must be.
_BLOCK, _SURE = 4, 0.99
#: Held-out samples of a codebook that are looked at.
_MOST_CODEBOOK_SAMPLES = 500


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """The ladder, and how much to draw.

    ``epsilons``: mean per value, of the noise release under ``auto``, each with all ``bits``; ``more_epsilons``: with
    the default bits alone. The other allocations are measured under the default release. Per group of codewords,
    ``group_epsilons``. ``draws``: of a picture under a release that may pass ``floor``.
    """

    epsilons: tuple[float, ...] = (8.0, 16.0)
    more_epsilons: tuple[float, ...] = (2.0, 4.0, 12.0, 32.0, 64.0)
    bits: tuple[int, ...] = (4, 5, 6, 7, 8)
    group_epsilons: tuple[float, ...] = (2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0)
    draws: int = 2
    threads: int = 2
    seed: int = 0
    floor: Floor = Floor()


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
        bundle: Written, but for the figures.
        taught: What each half of the calibration data taught; none where there was but one picture, or no such data.
        books: The data that the codebooks were learned from, and what of it taught none.
        options: What to measure.
        unit: What a sample of the calibration data is.
        progress: Told after each release.

    """
    measure = measure_for(bundle)
    whole = open_interpreter(bundle.path(bundle.manifest.model))
    inputs = [one for half in taught for one in half.measured]
    truth = _Truth(bundle, measure, [real_outputs(whole, one) for one in inputs])
    sides = [side for side, half in enumerate(taught) for _ in half.measured]
    cuts = [cut for cut in bundle.manifest.cuts if cut.calibration is not None] if inputs else []
    jobs = [_NoiseJob(bundle, cut, inputs, sides, taught, truth, options) for cut in cuts]
    steps = _Steps(sum(len(job.cells) for job in jobs), progress)
    rows: list[Row] = []
    # As in calibration: BLAS would fight over the cores with our own threads.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(max_workers=options.threads) as pool:
        for made in pool.map(lambda job: job.run(steps.advance), jobs):
            rows += made
    rows += _codebook_rows(bundle, measure, books, options)
    return Prepared(measure=measure.text, unit=unit, available=len(inputs), rows=tuple(rows))


class _Truth:
    """What the unsplit model answers to each picture, and how well other answers agree with that."""

    def __init__(self, bundle: Bundle, measure: Measure, unsplit: Sequence[Sequence[Floats]]) -> None:
        self._measure, self._unsplit = measure, unsplit
        self.spread = Spread(output_weights(bundle.manifest))
        for outputs in unsplit:
            self.spread.add(outputs)

    def judge(self, picture: int, outputs: Sequence[Floats]) -> tuple[float, float]:
        """The agreement of an answer, and the error of its outputs."""
        known = self._unsplit[picture]
        agreement = self._measure.agreement(self._measure.note(outputs, known), self.spread)
        return agreement, self.spread.error(squared_errors(outputs, known))


@dataclass(frozen=True)
class _Judged:
    """Of the pictures looked at, in order: each one's mean agreement and output error; ``draws`` of each."""

    agreements: list[float]
    errors: list[float]
    draws: int


def _judge(pictures: Sequence[int], once: Callable[[int], tuple[float, float]], options: FigureOptions) -> _Judged:
    """Draw releases until it is clear that they fail, or of every picture as often as was asked for."""
    drawn: list[list[tuple[float, float]]] = []
    for looked, picture in enumerate(pictures, 1):
        drawn.append([once(picture)])
        if looked % _BLOCK == 0 and _fails([of_one[0][0] for of_one in drawn], options.floor):
            break
    draws = 1
    if not _fails([of_one[0][0] for of_one in drawn], options.floor):
        for _ in range(1, options.draws):
            for of_one, picture in zip(drawn, pictures, strict=True):
                of_one.append(once(picture))
        draws = options.draws
    means = np.mean(drawn, axis=1)
    return _Judged(means[:, 0].tolist(), means[:, 1].tolist(), draws)


def _fails(agreements: Sequence[float], floor: Floor) -> bool:
    return upper_bound(sum(agreements), len(agreements), _SURE) < floor.value


class _NoiseJob:
    """All noise releases of one cut. ``cells``: each by the user's wish, and as it is stored."""

    def __init__(
        self,
        bundle: Bundle,
        cut: Cut,
        inputs: Sequence[Inputs],
        sides: Sequence[int],
        taught: Sequence[Taught],
        truth: _Truth,
        options: FigureOptions,
    ) -> None:
        self._bundle, self._cut, self._inputs, self._sides = bundle, cut, inputs, sides
        self._taught, self._truth, self._options = taught, truth, options
        self.cells = list(_cells(cut, options))

    def run(self, advance: Callable[[], None]) -> list[Row]:
        """The rows of the cut."""
        bundle, cut = self._bundle, self._cut
        tail = open_interpreter(bundle.path(cut.tail))
        aware = {noisy.epsilon: open_interpreter(bundle.path(noisy.tail)) for noisy in cut.noise_tails}
        head = None if cut.head is None else open_interpreter(bundle.path(cut.head))
        # A head gives views of its own memory.
        features = [
            list(one) if head is None else [np.array(made) for made in head.run(one)] for one in self._inputs
        ]
        rows = []
        for number, (wish, spec) in enumerate(self.cells):
            rows.append(self._row(number, wish, spec, aware.get(spec.epsilon, tail), features))
            advance()
        return rows

    def _row(
        self, number: int, wish: AllocationWish, spec: NoiseSpec, tail: Interpreter, features: Sequence[list[Array]]
    ) -> Row:
        ways = [self._way(number, side, wish, spec) for side in range(len(self._taught))]

        def once(picture: int) -> tuple[float, float]:
            return self._truth.judge(picture, real_outputs(tail, ways[self._sides[picture]](features[picture])))

        order = np.random.default_rng(self._options.seed).permutation(len(features)).tolist()
        cut = self._cut
        plan = NoisePlan.make(spec, cut.tensors, cut.calibration or ())
        aware = spec.epsilon in {noisy.epsilon for noisy in cut.noise_tails}
        return _as_row(cut, plan, _judge(order, once, self._options), aware=aware)

    def _way(self, number: int, side: int, wish: AllocationWish, spec: NoiseSpec) -> _Way:
        """Through the release that a half taught."""
        taught, cut, seed = self._taught[side], self._cut, self._options.seed
        allocation = taught.allocation(cut.index, spec.epsilon) if wish == "auto" else wish
        own = NoiseSpec(epsilon=spec.epsilon, allocation=allocation, bits=spec.bits)
        plan = NoisePlan.make(own, cut.tensors, taught.calibrations[cut.index])
        release = NoiseRelease(plan, entropy=np.random.default_rng((seed, cut.index, number, side)).bytes)
        return lambda features: recover(plan, release(features))


def _cells(cut: Cut, options: FigureOptions) -> Iterator[tuple[AllocationWish, NoiseSpec]]:
    """The releases to measure at a cut: what the user would wish for, and what it comes to."""
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


def _as_row(cut: Cut, plan: NoisePlan | CodebookPlan, judged: _Judged, *, aware: bool = False) -> Row:
    pictures = len(judged.agreements)
    agreed = min(float(pictures), sum(judged.agreements))
    return Row(
        cut=cut.index,
        mechanism="noise" if isinstance(plan, NoisePlan) else "codebook",
        tensors=tuple(tensor.name for tensor in cut.tensors),
        spec=plan.spec if isinstance(plan, NoisePlan) else None,
        codebook=plan.spec if isinstance(plan, CodebookPlan) else None,
        payload_bytes=plan.payload_bytes,
        draws=judged.draws,
        agreement=wilson(agreed / pictures, pictures),
        agreement_bound=lower_bound(agreed, pictures),
        accuracy=None,
        output_error=bootstrap(judged.errors),
        per_value_epsilon_max=plan.per_value_epsilon_max,
        per_value_epsilon_mean=plan.per_value_epsilon_mean,
        whole_input_epsilon=plan.whole_input_epsilon,
        noise_aware=aware,
    )


def _codebook_rows(
    bundle: Bundle, measure: Measure, books: LearnedCodebooks, options: FigureOptions
) -> Iterator[Row]:
    """Every codebook on the samples that taught none at its cut; crops of a picture are one unit with it."""
    if books.data is None:
        return
    whole = open_interpreter(bundle.path(bundle.manifest.model))
    for cut in bundle.manifest.cuts:
        if not cut.codebooks:
            continue
        chosen = sorted(books.held_out.get(cut.index, ()))[:_MOST_CODEBOOK_SAMPLES]
        samples = [sample for at, sample in enumerate(books.data) if at in set(chosen)]
        pictures: dict[str, list[int]] = {}
        for at, sample in enumerate(samples):
            pictures.setdefault(sample.name, []).append(at)
        truth = _Truth(bundle, measure, [real_outputs(whole, sample.tensors) for sample in samples])
        head = None if cut.head is None else open_interpreter(bundle.path(cut.head))
        features = [
            list(sample.tensors) if head is None else [np.array(made) for made in head.run(sample.tensors)]
            for sample in samples
        ]
        for book in cut.codebooks:
            yield from _rows_of_codebook(bundle, cut, book, list(pictures.values()), features, truth, options)


def _rows_of_codebook(
    bundle: Bundle,
    cut: Cut,
    book: Codebook,
    pictures: Sequence[Sequence[int]],
    features: Sequence[Sequence[Array]],
    truth: _Truth,
    options: FigureOptions,
) -> Iterator[Row]:
    """One codebook at every epsilon; the tail runs once for each payload, of which there are few."""
    path = bundle.path(book.file)
    encoder, decoder = read_encoder(path, book, cut.tensors), read_decoder(path, book, cut.tensors)
    tail = open_interpreter(bundle.path(cut.tail))
    answers: dict[bytes, list[Floats]] = {}
    for number, epsilon in enumerate(options.group_epsilons):
        whole_input = min(epsilon, MAX_EPSILON) * book.groups
        plan = CodebookPlan.make(
            CodebookSpec(epsilon=whole_input, codewords=book.codewords, groups=book.groups), cut
        )
        generator = np.random.default_rng((options.seed, cut.index, book.codewords, book.groups, number))
        release = CodebookRelease(plan, encoder, entropy=generator.bytes)

        def once(
            picture: int, plan: CodebookPlan = plan, release: CodebookRelease = release
        ) -> tuple[float, float]:
            judged = []
            for sample in pictures[picture]:
                payload = bytes(release(features[sample]))
                if payload not in answers:
                    answers[payload] = real_outputs(tail, recover_codebook(plan, decoder, payload))
                judged.append(truth.judge(sample, answers[payload]))
            agreement, error = np.mean(judged, axis=0).tolist()
            return agreement, error

        yield _as_row(cut, plan, _judge(range(len(pictures)), once, options))


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

"""Measures clip ranges, ranks and sensitivity weights of each cut on public data, per channel.

The noise release needs these numbers. They must come from public data, because the bundle contains them. Clip
ranges are quantiles over many views of the data (`clip_choice`); ranks are those of the channels' maps (HRank: a
filter's mean rank hardly depends on which pictures are seen).

The sensitivity weight of a channel is the mean squared gradient of the model's raw outputs per
value, E ||J_i||^2. No autodiff: one channel at a time moves by +-d with random signs s, and
E ||J d s||^2 = d^2 sum_i ||J_i||^2, since the signs are independent. d is the noise of a typical release, so that
the weight is measured over the same range of the non-linear network as the noise covers. Measured on
EfficientNet-Lite0, raw logits predict agreement as well as or better than softmax, log-softmax and margin in front
of them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no stubs

from split_model.arrays import Array
from split_model.bundle.manifest import ChannelCalibration, TensorSpec
from split_model.errors import BackendError, BadInputError, BadModelError, SplitModelError, UsageError
from split_model.features.data import Data
from split_model.features.preprocess import to_real, to_stored
from split_model.interpreter import Interpreter, open_interpreter
from split_model.prepare.calibrate.augmentation import DEFAULT_SAMPLES, calibration_samples
from split_model.prepare.calibrate.clip_choice import LADDER, TRIED, choose_clip
from split_model.prepare.calibrate.perturbation import finite_outputs, moved_channel
from split_model.prepare.calibrate.statistics import ChannelStatistics, statistics_of
from split_model.prepare.outputs import Spread, squared_errors

Floats = NDArray[np.float64]
Inputs = tuple[Array, ...]
Progress = Callable[[int, int], None]

#: If the clip quantile is chosen by measurement, weights are measured on features clipped at this quantile.
_WEIGHTS_QUANTILE = 0.99


@dataclass(frozen=True)
class CutModels:
    """One cut with head and tail, as bytes or files; ``head`` is None if the cut sends the input itself."""

    index: int
    head: bytes | Path | None
    tail: bytes | Path
    tensors: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class CalibrationOptions:
    """Options of a calibration; the defaults were measured on EfficientNet-Lite0.

    ``samples``: number of model inputs to make of the data. ``pictures``: number of the first ones that are not
    crops; the others are crops of the same pictures in the same order; None: there are no crops. ``quantile``: clip
    at this quantile and at one minus it; None: the one of `clip_choice.LADDER` that loses least at each cut.
    ``values``: number of values for a channel's quantiles. ``rank_samples`` and ``weight_samples``: number of
    samples for the means of ranks and weights; ``weight_samples`` 0: weights are given. ``tail_runs``: maximum runs
    of a tail per cut, but at least one per channel. ``epsilon``: the per-value epsilon of the noise for measuring
    the weights. ``output_weights``: weight of each output; None: equal weights.
    """

    samples: int = DEFAULT_SAMPLES
    pictures: int | None = None
    quantile: float | None = None
    values: int = 8192
    rank_samples: int = 16
    weight_samples: int = 4
    tail_runs: int = 6000
    epsilon: float = 16.0
    threads: int = 2
    seed: int = 0
    backend: str | None = None
    output_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        if self.quantile is not None and not 0.5 < self.quantile <= 1.0:
            raise UsageError(f"clip quantile {self.quantile:g}", remedy="it must be above 0.5 and at most 1")
        counts = (self.samples, self.values, self.rank_samples, self.tail_runs, self.threads)
        if min(counts) < 1 or self.weight_samples < 0 or not self.epsilon > 0:
            raise UsageError("calibration options must be positive")


def calibrate(
    cuts: Sequence[CutModels],
    data: Data | Sequence[Inputs],
    *,
    options: CalibrationOptions | None = None,
    weights: Mapping[int, Sequence[Sequence[float]]] | None = None,
    progress: Progress | None = None,
    finished: Callable[[int, tuple[ChannelCalibration, ...]], None] | None = None,
    failed: Callable[[int, SplitModelError], None] | None = None,
) -> dict[int, tuple[ChannelCalibration, ...]]:
    """Calibrate every cut; the result has, by cut index, one entry for each live tensor.

    ``data`` gives ``options.samples`` model inputs, pictures through `augmentation`; or it is a list of inputs.
    ``weights``: known weights of the channels of each tensor, by cut; otherwise they are measured. ``progress`` is
    called with (runs done, runs in all) by one thread at a time, ``finished`` with the index and result of each cut
    as soon as it is done. The same models, data, options and machine give the same numbers, whatever the number of
    threads. Raises `BadInputError` without samples. A cut whose features are not finite, or whose tail does not run
    under noise, goes to ``failed`` with its error, and the others go on; without ``failed`` the error is raised.
    """
    options = options or CalibrationOptions()
    samples = data
    if isinstance(samples, Data):
        samples = calibration_samples(samples, count=options.samples, seed=options.seed)
    if not samples:
        raise BadInputError("there is no calibration sample", remedy="give at least one")
    steps = _Steps(sum(_runs(cut, len(samples), options) for cut in cuts), progress)
    done: dict[int, tuple[ChannelCalibration, ...]] = {}
    # The ranks are SVDs of many small matrices: with its own threads on busy cores, BLAS took 136 ms for one of #
    # 112 x 112 instead of 1.7 ms with a single thread.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(max_workers=options.threads) as pool:
        tasks = {
            pool.submit(_calibrate_cut, cut, samples, options, steps, (weights or {}).get(cut.index)): cut.index
            for cut in cuts
        }
        try:
            for task in as_completed(tasks):
                error = task.exception()
                if failed is not None and isinstance(error, BadModelError | BackendError | BadInputError):
                    failed(tasks[task], error)
                    continue
                done[tasks[task]] = task.result()
                if finished is not None:
                    finished(tasks[task], task.result())
        except BaseException:
            steps.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return {cut.index: done[cut.index] for cut in cuts if cut.index in done}


class _Stopped(Exception):  # noqa: N818  # no error: another cut failed, or the user had enough
    """Raised to end the work of the other threads."""


class _Steps:
    """Counts model runs of all threads."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._done = 0
        self._stopped = False
        self._lock = threading.Lock()

    def advance(self) -> None:
        with self._lock:
            if self._stopped:
                raise _Stopped
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self._total)

    def stop(self) -> None:
        self._stopped = True


def _channels(cut: CutModels) -> int:
    return sum(tensor.shape[-1] for tensor in cut.tensors)


def _weight_samples(cut: CutModels, samples: int, options: CalibrationOptions) -> int:
    if options.weight_samples == 0:
        return 0
    return max(1, min(options.weight_samples, options.tail_runs // (_channels(cut) + 1), samples))


def _runs(cut: CutModels, samples: int, options: CalibrationOptions) -> int:
    tried = 0 if options.quantile is not None else min(TRIED, samples) * (1 + len(LADDER))
    return samples + tried + _weight_samples(cut, samples, options) * (_channels(cut) + 1)


def _calibrate_cut(
    cut: CutModels,
    samples: Sequence[Inputs],
    options: CalibrationOptions,
    steps: _Steps,
    known: Sequence[Sequence[float]] | None,
) -> tuple[ChannelCalibration, ...]:
    pictures = options.pictures or len(samples)
    take = -(-options.values // len(samples))
    made = partial(statistics_of, cut.index, cut.tensors, seed=options.seed, take=take)
    seen = made(rank_samples=options.rank_samples)
    parts = [made(rank_samples=0) for _ in range(min(2, pictures))]
    kept: list[list[Array]] = []
    weight_samples = _weight_samples(cut, len(samples), options)
    tail = open_interpreter(cut.tail, backend=options.backend)
    spread = Spread(options.output_weights)
    for index, features in enumerate(_features(cut, samples, options.backend)):
        steps.advance()
        if len(tail.outputs) > 1:
            spread.add(finite_outputs(cut.index, tail, features))
        for one, of_part, feature in zip(seen, parts[index % pictures % 2], features, strict=True):
            one.add(index, feature)
            if options.quantile is None:
                of_part.add(index, feature)
        if index < max(weight_samples, 0 if options.quantile is not None else TRIED):
            kept.append([np.array(feature) for feature in features])
    ranges = [one.clip_range(options.quantile or _WEIGHTS_QUANTILE) for one in seen]
    # Outputs of different size are weighted by their variance; a single one needs none.
    shares = spread.shares if len(tail.outputs) > 1 else [1.0]
    if known is None:
        weights = _weights(cut, kept[:weight_samples], ranges, options, steps, tail=tail, shares=shares)
    else:
        weights = [np.asarray(one, np.float64) for one in known]
    if options.quantile is not None:
        return _found(options.quantile, seen, weights)
    # A sample is clipped to ranges learned from pictures outside its part.
    tried = [(len(parts) - 1 - index % pictures % 2, one) for index, one in enumerate(kept[:TRIED])]
    chosen = choose_clip(
        {quantile: [_found(quantile, seen, weights, ranges_of=part) for part in parts] for quantile in LADDER},
        cut.tensors,
        tried,
        tail,
        epsilon=options.epsilon,
        output_weights=options.output_weights,
        key=(options.seed, cut.index),
        advance=steps.advance,
    )
    return _found(chosen, seen, weights)


def _found(
    quantile: float,
    seen: Sequence[ChannelStatistics],
    weights: Sequence[Floats],
    *,
    ranges_of: Sequence[ChannelStatistics] | None = None,
) -> tuple[ChannelCalibration, ...]:
    """The calibration of every tensor, clipped at a quantile of all samples, or of the given parts."""
    return tuple(
        ChannelCalibration(
            clip_low=_numbers(low),
            clip_high=_numbers(high),
            rank=_numbers(one.mean_rank()),
            weight=_numbers(weight),
        )
        for one, other, weight in zip(seen, ranges_of or seen, weights, strict=True)
        for low, high in [other.clip_range(quantile)]
    )


def _features(cut: CutModels, samples: Sequence[Inputs], backend: str | None) -> Iterator[list[Array]]:
    if cut.head is None:
        yield from (list(sample) for sample in samples)
        return
    head = open_interpreter(cut.head, backend=backend)
    yield from (head.run(sample) for sample in samples)


def _weights(
    cut: CutModels,
    samples: Sequence[list[Array]],
    ranges: Sequence[tuple[Floats, Floats]],
    options: CalibrationOptions,
    steps: _Steps,
    *,
    tail: Interpreter,
    shares: Sequence[float],
) -> list[Floats]:
    """Per tensor and channel, the mean over the samples of the squared gradient per value."""
    sums = [np.zeros(tensor.shape[-1]) for tensor in cut.tensors]
    for index, sample in enumerate(samples):
        clipped = [
            to_stored(np.clip(to_real(feature, spec), low, high), spec)
            for feature, spec, (low, high) in zip(sample, cut.tensors, ranges, strict=True)
        ]
        base = finite_outputs(cut.index, tail, clipped)
        steps.advance()
        for at, (low, high) in enumerate(ranges):
            noise = (high - low) * math.sqrt(2) / options.epsilon  # standard deviation of Laplace noise
            for channel in range(len(noise)):
                rng = np.random.default_rng((options.seed, cut.index, index, at, channel))
                moved, energy = moved_channel(clipped[at], cut.tensors[at], channel, float(noise[channel]), rng)
                outputs = finite_outputs(cut.index, tail, [*clipped[:at], moved, *clipped[at + 1 :]])
                pairs = zip(shares, squared_errors(outputs, base), strict=True)
                change = sum(share * error for share, error in pairs)
                sums[at][channel] += change / energy if energy else 0.0
                steps.advance()
    return [total / len(samples) for total in sums]


def _numbers(values: Floats) -> tuple[float, ...]:
    """Round to Python floats of seven digits, the precision of float32, for shorter manifests."""
    return tuple(float(f"{value:.7g}") for value in values)

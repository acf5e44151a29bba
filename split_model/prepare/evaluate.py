"""How often the answer through a noise release is still the answer, by cut and epsilon.

Agreement is top-1 against the unprotected whole model; accuracy is top-1 against labels, where the data has them;
and the error of the outputs says the same of answers that are no classes. Every sample is released several times
with fresh noise. Draws of one sample are not independent of each other, so all 95 % intervals are over samples:
Wilson's for proportions (which is then on the safe side, as the mean of several draws varies less than one), the
bootstrap for errors.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model import __version__
from split_model.bundle import Bundle, Cut, Manifest
from split_model.errors import BadBundleError, BadInputError, UsageError
from split_model.evaluation import FORMAT, DataRecord, Evaluation, Mean, Mechanism, Row, Share
from split_model.features.data import Data, Sample, open_data, read_labels
from split_model.features.preprocess import to_real, to_stored
from split_model.interpreter import Interpreter, open_interpreter
from split_model.prepare.assemble import Progress
from split_model.prepare.outputs import Floats, Spread, output_weights, real_outputs, squared_errors
from split_model.privacy import AllocationWish, NoisePlan, NoiseRelease, NoiseSpec, recover, settle

Array = NDArray[Any]
Entropy = Callable[[int], bytes]

_Z95 = 1.959963984540054
_RESAMPLES = 2000


def wilson(value: float, samples: int) -> Share:
    """A proportion with its Wilson score interval at 95 %; raises `ValueError` without samples."""
    if samples < 1:
        raise ValueError("a proportion of no samples")
    square = _Z95**2
    centre = (value + square / (2 * samples)) / (1 + square / samples)
    half = _Z95 * math.sqrt(value * (1 - value) / samples + square / (4 * samples**2)) / (1 + square / samples)
    # At the ends the formula gives 0 and 1 but for rounding.
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Share(value=value, low=min(low, value), high=max(high, value), samples=samples)


def bootstrap(values: Sequence[float]) -> Mean:
    """A mean with its 95 % percentile interval over resampled samples; the same values give the same interval."""
    known = np.asarray(values, np.float64)
    picked = np.random.default_rng(0).integers(0, known.size, (_RESAMPLES, known.size))
    low, high = np.quantile(known[picked].mean(axis=1), [0.025, 0.975])
    return Mean(value=float(known.mean()), low=float(low), high=float(high), samples=known.size)


def evaluate(
    bundle: Bundle,
    data: Data | Path,
    *,
    entropy: Entropy,
    epsilons: Sequence[float],
    cuts: Sequence[int] | None = None,
    allocations: Sequence[AllocationWish] = ("auto",),
    bits: int = 8,
    draws: int = 3,
    backend: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Release every sample at every cut (all calibrated ones, or those named) in every way asked for.

    ``data`` is DATA as `open_data` takes it, or opened. ``entropy(n)`` gives n random bytes, as `os.urandom` does.
    ``auto`` stands for what the bundle has as the best allocation at each cut. ``progress`` is called with
    ("evaluating", samples done, samples in all). Raises `UsageError` for a cut that is not offered,
    `BadBundleError` where the bundle has no calibration.
    """
    if draws < 1:
        raise UsageError(f"draws = {draws}: at least one release a sample is needed")
    answer = class_output(bundle.manifest)
    ways = [
        way
        for cut in _chosen(bundle, cuts)
        for way in _ways(
            cut, _Halves(bundle, cut, backend), _specs(cut, epsilons, allocations, bits), draws, entropy
        )
    ]
    name = str(data) if isinstance(data, Path) else ""
    data = open_for(bundle, data) if isinstance(data, Path) else data
    whole = open_interpreter(bundle.path(bundle.manifest.model), backend=backend)
    correct: list[bool] = []
    digest, spread = hashlib.sha256(), Spread(output_weights(bundle.manifest))
    for done, sample in enumerate(data):
        _add_to(digest, sample)
        known = _Known(real_outputs(whole, sample.tensors), answer, sample.label)
        spread.add(known.outputs)
        if sample.label is not None:
            correct.append(known.check_label(sample.name))
        for way in ways:
            way.count(sample.tensors, known)
        if progress is not None:
            progress("evaluating", done + 1, len(data))
    return Evaluation(
        format=FORMAT,
        bundle=bundle.identity,
        data=DataRecord(name=name, sha256=digest.hexdigest(), samples=len(data), labelled=len(correct)),
        unprotected_accuracy=wilson(sum(correct) / len(correct), len(correct)) if correct else None,
        rows=tuple(way.row(len(data), len(correct), spread) for way in ways),
        made_by=f"split-model {__version__}",
    )


def open_for(bundle: Bundle, path: Path) -> Data:
    """Open DATA as this bundle's model takes it; folders may be named by its labels."""
    manifest = bundle.manifest
    named = None if manifest.answer is None else manifest.answer.labels
    labels = None if named is None else read_labels(bundle.path(named))
    return open_data(path, manifest.inputs, manifest.preprocess, labels)


def class_output(manifest: Manifest) -> int | None:
    """Which output is read as classes; None where the bundle says what the outputs mean, and that is no class."""
    if manifest.answer is None:
        return None if manifest.answer_schema else 0
    if not 0 <= manifest.answer.output < len(manifest.outputs):
        raise BadBundleError(
            f"the answer is read from output {manifest.answer.output} of {len(manifest.outputs)}; prepare it again"
        )
    return manifest.answer.output


class _Known:
    """One sample's label and unprotected outputs: what every release of it is compared with."""

    def __init__(self, outputs: Sequence[Floats], answer: int | None, label: int | None) -> None:
        self.outputs = outputs
        self.answer = answer
        self.label = label
        self.best = None if answer is None else int(outputs[answer].argmax())

    def check_label(self, name: str) -> bool:
        """Whether the unprotected answer is right; `BadInputError` for a label that the model cannot give."""
        if self.answer is None:
            raise BadInputError(
                f"{name}: has a label, and this model's answer is no class; give data without labels"
            )
        classes = self.outputs[self.answer].size
        if self.label is None or self.label >= classes:
            raise BadInputError(f"{name}: label {self.label}, the model has classes 0 to {classes - 1}")
        return self.best == self.label


class _Halves:
    """Head and tail of one cut; the head runs once a sample, however many ways want its features."""

    def __init__(self, bundle: Bundle, cut: Cut, backend: str | None) -> None:
        self.head = None if cut.head is None else open_interpreter(bundle.path(cut.head), backend=backend)
        self.tail: Interpreter = open_interpreter(bundle.path(cut.tail), backend=backend)
        self._inputs: Sequence[Array] = ()
        self._features: Sequence[Array] = ()

    def features(self, inputs: Sequence[Array]) -> Sequence[Array]:
        if inputs is not self._inputs:
            self._features = inputs if self.head is None else self.head.run(inputs)
            self._inputs = inputs
        return self._features


class _Way:
    """One cut released in one way, and how it did so far."""

    def __init__(self, cut: Cut, halves: _Halves, draws: int, plan: NoisePlan | None, entropy: Entropy) -> None:
        self._cut = cut
        self._halves = halves
        self._plan = plan
        self._release = None if plan is None else NoiseRelease(plan, entropy=entropy)
        self._draws = 1 if plan is None else draws
        self._agreed = 0
        self._correct = 0
        self._errors: list[list[float]] = []  # a sample and output, means over draws
        self._classes = False

    def count(self, inputs: Sequence[Array], known: _Known) -> None:
        features = self._halves.features(inputs)
        errors = []
        for _ in range(self._draws):
            outputs = real_outputs(self._halves.tail, self._through(features))
            errors.append(squared_errors(outputs, known.outputs))
            if known.answer is not None:
                self._classes = True
                best = int(outputs[known.answer].argmax())
                self._agreed += best == known.best
                self._correct += best == known.label
        self._errors.append(np.mean(errors, axis=0).tolist())

    def _through(self, features: Sequence[Array]) -> Sequence[Array]:
        if self._plan is None or self._release is None:
            return clipped(features, self._cut)
        return recover(self._plan, self._release(features))

    def row(self, samples: int, labelled: int, spread: Spread) -> Row:
        plan = self._plan
        mechanism: Mechanism = "clip" if plan is None else "noise"
        return Row(
            cut=self._cut.index,
            mechanism=mechanism,
            tensors=tuple(tensor.name for tensor in self._cut.tensors),
            spec=None if plan is None else plan.spec,
            payload_bytes=self._cut.raw_bytes if plan is None else plan.payload_bytes,
            draws=self._draws,
            agreement=wilson(self._agreed / (samples * self._draws), samples) if self._classes else None,
            accuracy=wilson(self._correct / (labelled * self._draws), labelled) if labelled else None,
            output_error=bootstrap([spread.error(squared) for squared in self._errors]),
            per_value_epsilon_max=None if plan is None else plan.per_value_epsilon_max,
            per_value_epsilon_mean=None if plan is None else plan.per_value_epsilon_mean,
            whole_input_epsilon=None if plan is None else plan.whole_input_epsilon,
        )


def clipped(features: Sequence[Array], cut: Cut) -> list[Array]:
    """Features clipped to the calibrated ranges and nothing else: what clipping alone costs."""
    if cut.calibration is None:
        raise BadBundleError(f"cut {cut.index} has no calibration; prepare the bundle with --calibration")
    return [
        to_stored(np.clip(to_real(feature, spec), np.array(known.clip_low), np.array(known.clip_high)), spec)
        for feature, spec, known in zip(features, cut.tensors, cut.calibration, strict=True)
    ]


def _add_to(digest: Any, sample: Sample) -> None:
    for tensor in sample.tensors:
        digest.update(repr((tensor.dtype.str, tensor.shape, sample.label)).encode())
        digest.update(np.ascontiguousarray(tensor).data)


def _chosen(bundle: Bundle, cuts: Sequence[int] | None) -> list[Cut]:
    offered = [cut.index for cut in bundle.manifest.cuts]
    missing = sorted(set(cuts or ()) - set(offered))
    if missing:
        raise UsageError(f"{bundle.root}: cut {missing[0]} is not offered; choose among {offered}")
    chosen = [cut for cut in bundle.manifest.cuts if cuts is None or cut.index in cuts]
    uncalibrated = [cut.index for cut in chosen if cut.calibration is None]
    if cuts is None:
        chosen = [cut for cut in chosen if cut.calibration is not None]
    elif uncalibrated:
        raise BadBundleError(
            f"{bundle.root}: cut {uncalibrated[0]} has no calibration; prepare the bundle with --calibration"
        )
    if not chosen:
        raise BadBundleError(f"{bundle.root}: no cut has a calibration; prepare the bundle with --calibration")
    return chosen


def _specs(
    cut: Cut, epsilons: Sequence[float], allocations: Sequence[AllocationWish], bits: int
) -> list[NoiseSpec]:
    """What was asked for at one cut; ``auto`` beside what it stands for is measured once."""
    settled = dict.fromkeys(settle(wish, cut) for wish in allocations)
    return [NoiseSpec(epsilon=e, allocation=a, bits=bits) for e in epsilons for a in settled]


def _ways(cut: Cut, halves: _Halves, specs: Sequence[NoiseSpec], draws: int, entropy: Entropy) -> list[_Way]:
    plans = [None, *(NoisePlan.make(spec, cut.tensors, cut.calibration or ()) for spec in specs)]
    return [_Way(cut, halves, draws, plan, entropy) for plan in plans]

"""How often the answer through a noise release is still the answer, by cut and epsilon.

Agreement is top-1 against the unprotected whole model; accuracy is top-1 against labels, where the
data has them. Every sample is released several times with fresh noise. Draws of one sample are not
independent of each other, so the Wilson 95 % intervals count samples, not draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from split_model.bundle import Bundle, Cut, Manifest
from split_model.errors import BadBundleError, BadInputError, UsageError
from split_model.features.data import Data, open_data, read_labels
from split_model.features.preprocess import to_real, to_stored
from split_model.interpreter import Interpreter, open_interpreter
from split_model.prepare.assemble import Progress
from split_model.privacy import Allocation, NoisePlan, NoiseRelease, NoiseSpec, recover

Array = NDArray[Any]
Entropy = Callable[[int], bytes]

_Z95 = 1.959963984540054


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """A proportion and its Wilson 95 % interval over ``samples`` samples."""

    value: float
    low: float
    high: float
    samples: int


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One way to release one cut. ``spec`` None: clipped to the public ranges, without noise or quantising.

    Of the two epsilons, ``per_value_epsilon_max`` protects one feature value and
    ``whole_input_epsilon`` the whole frame.
    """

    cut: int
    tensors: tuple[str, ...]
    spec: NoiseSpec | None
    payload_bytes: int
    draws: int
    agreement: Share
    accuracy: Share | None
    per_value_epsilon_max: float | None = None
    per_value_epsilon_mean: float | None = None
    whole_input_epsilon: float | None = None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """All rows, and how the unprotected whole model does on the same data."""

    samples: int
    unprotected_accuracy: Share | None
    rows: tuple[Row, ...]


def wilson(value: float, samples: int) -> Share:
    """A proportion with its Wilson score interval at 95 %; raises `ValueError` without samples."""
    if samples < 1:
        raise ValueError("a proportion of no samples")
    square = _Z95**2
    centre = (value + square / (2 * samples)) / (1 + square / samples)
    half = _Z95 * math.sqrt(value * (1 - value) / samples + square / (4 * samples**2)) / (1 + square / samples)
    return Share(value=value, low=max(0.0, centre - half), high=min(1.0, centre + half), samples=samples)


def evaluate(
    bundle: Bundle,
    data: Data | Path,
    *,
    entropy: Entropy,
    epsilons: Sequence[float],
    cuts: Sequence[int] | None = None,
    allocations: Sequence[Allocation] = ("optimal",),
    bits: int = 8,
    draws: int = 3,
    backend: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Release every sample at every cut (all calibrated ones, or those named) in every way asked for.

    ``data`` is DATA as `open_data` takes it, or opened. ``entropy(n)`` gives n random bytes, as
    `os.urandom` does. ``progress`` is called with ("evaluating", samples done, samples in all).
    Raises `UsageError` for a cut that is not offered,
    `BadBundleError` where the bundle has no calibration.
    """
    if draws < 1:
        raise UsageError(f"draws = {draws}: at least one release a sample is needed")
    specs = [NoiseSpec(epsilon=e, allocation=a, bits=bits) for e in epsilons for a in allocations]
    ways = [
        way
        for cut in _chosen(bundle, cuts)
        for way in _ways(cut, _Halves(bundle, cut, backend), specs, draws, entropy)
    ]
    data = open_for(bundle, data) if isinstance(data, Path) else data
    whole = open_interpreter(bundle.path(bundle.manifest.model), backend=backend)
    output = _answer(bundle.manifest)
    correct: list[bool] = []
    for done, sample in enumerate(data):
        answers = whole.run(sample.tensors)[output]
        expected = int(np.argmax(answers))
        if sample.label is not None:
            _check_label(sample.name, sample.label, answers.size)
            correct.append(expected == sample.label)
        for way in ways:
            way.count(sample.tensors, expected, sample.label, output)
        if progress is not None:
            progress("evaluating", done + 1, len(data))
    return Evaluation(
        samples=len(data),
        unprotected_accuracy=wilson(sum(correct) / len(correct), len(correct)) if correct else None,
        rows=tuple(way.row(len(data), len(correct)) for way in ways),
    )


def open_for(bundle: Bundle, path: Path) -> Data:
    """Open DATA as this bundle's model takes it; folders may be named by its labels."""
    manifest = bundle.manifest
    named = None if manifest.answer is None else manifest.answer.labels
    labels = None if named is None else read_labels(bundle.path(named))
    return open_data(path, manifest.inputs, manifest.preprocess, labels)


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

    def count(self, inputs: Sequence[Array], expected: int, label: int | None, output: int) -> None:
        features = self._halves.features(inputs)
        for _ in range(self._draws):
            answer = int(np.argmax(self._halves.tail.run(self._through(features))[output]))
            self._agreed += answer == expected
            self._correct += answer == label

    def _through(self, features: Sequence[Array]) -> Sequence[Array]:
        if self._plan is None or self._release is None:
            return clipped(features, self._cut)
        return recover(self._plan, self._release(features))

    def row(self, samples: int, labelled: int) -> Row:
        plan = self._plan
        return Row(
            cut=self._cut.index,
            tensors=tuple(tensor.name for tensor in self._cut.tensors),
            spec=None if plan is None else plan.spec,
            payload_bytes=self._cut.raw_bytes if plan is None else plan.payload_bytes,
            draws=self._draws,
            agreement=wilson(self._agreed / (samples * self._draws), samples),
            accuracy=wilson(self._correct / (labelled * self._draws), labelled) if labelled else None,
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


def render(evaluation: Evaluation) -> str:
    """The evaluation for a terminal, one line a row, with both epsilons always."""
    labelled = any(row.accuracy is not None for row in evaluation.rows)
    lines = [
        f"{'cut':>4} {'bytes':>8} {'release':<22} {'eps/value max':>13} {'eps/input':>12} {'agreement [95 %]':<20}"
        + (f" {'accuracy [95 %]':<20}" if labelled else "")
    ]
    for row in evaluation.rows:
        release = "clip only" if row.spec is None else f"{row.spec.allocation} eps={row.spec.epsilon:g}"
        largest = "-" if row.per_value_epsilon_max is None else f"{row.per_value_epsilon_max:.4g}"
        total = "-" if row.whole_input_epsilon is None else f"{row.whole_input_epsilon:.6g}"
        line = f"{row.cut:>4} {row.payload_bytes:>8} {release:<22} {largest:>13} {total:>12}"
        line += f" {_text(row.agreement):<20}"
        lines.append(line + (f" {_text(row.accuracy):<20}" if row.accuracy is not None else ""))
    if evaluation.unprotected_accuracy is not None:
        lines.append(f"unprotected whole model: accuracy {_text(evaluation.unprotected_accuracy)}")
    lines.append(f"{evaluation.samples} samples; intervals count samples, not draws")
    return "\n".join(line.rstrip() for line in lines)


def _text(share: Share) -> str:
    return f"{share.value:.3f} [{share.low:.2f}, {share.high:.2f}]"


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


def _ways(cut: Cut, halves: _Halves, specs: Sequence[NoiseSpec], draws: int, entropy: Entropy) -> list[_Way]:
    plans = [None, *(NoisePlan.make(spec, cut.tensors, cut.calibration or ()) for spec in specs)]
    return [_Way(cut, halves, draws, plan, entropy) for plan in plans]


def _answer(manifest: Manifest) -> int:
    output = 0 if manifest.answer is None else manifest.answer.output
    if not 0 <= output < len(manifest.outputs):
        raise BadBundleError(
            f"the answer is read from output {output} of {len(manifest.outputs)}; prepare it again"
        )
    return output


def _check_label(name: str, label: int, classes: int) -> None:
    if label >= classes:
        raise BadInputError(f"{name}: label {label}, the model has classes 0 to {classes - 1}")

"""The last step of ``prepare``: runs every offered cut once, as device and server will.

Head, release, recovery, tail and answer run with the default release, with each release that the bundle was made
for, and unprotected. A cut at which any of this fails is left out of the bundle.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from split_model.arrays import Array
from split_model.bundle import Cut, LeftOut, Manifest, TensorSpec
from split_model.errors import (
    BackendError,
    BadBundleError,
    BadInputError,
    BadModelError,
    ConfigError,
    SplitModelError,
)
from split_model.features.preprocess import to_real
from split_model.interpreter import Interpreter, open_interpreter
from split_model.prepare.tflite.tables import printable
from split_model.privacy import (
    CodebookPlan,
    CodebookRelease,
    CodebookSpec,
    NoisePlan,
    NoiseRelease,
    NoiseSpec,
    recover,
    recover_codebook,
    settle,
)
from split_model.privacy.codebook_file import read_decoder, read_encoder
from split_model.privacy.plan import DEFAULT_BITS, DEFAULT_EPSILON

Inputs = Sequence[Array]
Progress = Callable[[str, int, int], None]
#: From a frame's features to the tail's inputs.
_Way = Callable[[Sequence[Array]], Sequence[Array]]

#: Number of samples through every release, and number of samples whose features must not be all equal.
_RELEASED, SAMPLES = 4, 16
#: Whole-input epsilon of a codebook's trial.
_CODEBOOK_EPSILON = 8.0
#: Maximum length of a reason, which may come from a backend.
_MOST_LETTERS = 300

FAILURES = (BackendError, BadModelError, BadInputError, BadBundleError, ConfigError)


def dry_run(
    root: Path,
    manifest: Manifest,
    samples: Sequence[Inputs],
    *,
    epsilons: Sequence[float] = (),
    bits: int = DEFAULT_BITS,
    progress: Progress,
) -> dict[int, str]:
    """Run every cut of a new bundle; returns the reason of each failed cut.

    Args:
        root: The bundle's folder.
        manifest: Its future manifest.
        samples: Inputs of the model, at least one.
        epsilons: Per-value epsilons that the bundle is made for, tried besides the default.
        bits: Bits per value for them.
        progress: Called after each cut.

    """
    whole = open_interpreter(root / manifest.model.path)
    finite = all(_finite(output, spec) for output, spec in _outputs(whole, samples[0], manifest.outputs))
    found = {}
    for done, cut in enumerate(manifest.cuts):
        progress("trying every cut", done, len(manifest.cuts))
        trial = _Trial(root, manifest, cut, finite=finite)
        try:
            trial.run(samples, epsilons, bits)
        except FAILURES as error:
            found[cut.index] = one_line(error, root)
    progress("trying every cut", len(manifest.cuts), len(manifest.cuts))
    return found


def without(root: Path, manifest: Manifest, reasons: Mapping[int, str]) -> Manifest:
    """Move the cuts in ``reasons`` to the manifest's left-out ones, and remove their files.

    Raises `BadModelError` if none is left.
    """
    kept = tuple(cut for cut in manifest.cuts if cut.index not in reasons)
    if not kept:
        index, reason = next(iter(reasons.items()))
        raise BadModelError(
            f"{manifest.name}: none of its cuts works; cut {index}: {reason}",
            remedy="take other cuts, or other calibration data ('split-model inspect' lists the cuts)",
        )
    for cut in manifest.cuts:
        if cut.index in reasons:
            shutil.rmtree((root / cut.tail.path).parent)
    left = {one.index: one for one in manifest.left_out}
    left |= {index: LeftOut(index=index, reason=reason) for index, reason in reasons.items()}
    return msgspec.structs.replace(manifest, cuts=kept, left_out=tuple(left[index] for index in sorted(left)))


def one_line(error: SplitModelError, root: Path) -> str:
    """An error as one printable line, with file names as in the bundle."""
    return printable(error.problem.replace(f"{root}{os.sep}", ""))[:_MOST_LETTERS]


@dataclass
class _Trial:
    """The trial of one cut. ``finite``: whether the whole model's outputs are finite."""

    root: Path
    manifest: Manifest
    cut: Cut
    finite: bool

    def run(self, samples: Sequence[Inputs], epsilons: Sequence[float], bits: int) -> None:
        """Raise the cut's first fault."""
        cut = self.cut
        head = None if cut.head is None else open_interpreter(self.root / cut.head.path)
        tail = open_interpreter(self.root / cut.tail.path)
        features = [self._features(head, one) for one in samples[:SAMPLES]]
        if cut.calibration is not None:
            self._check_values(samples, features)
        for one in features[:_RELEASED]:
            self._answer(tail, one, "")
        for name, way, noisy in self._ways(epsilons, bits):
            answering = tail if noisy is None else open_interpreter(self.root / noisy)
            for one in features[:_RELEASED]:
                self._answer(answering, way(one), f" under {name}")

    def _features(self, head: Interpreter | None, inputs: Inputs) -> list[Array]:
        made = list(inputs) if head is None else head.run(inputs)
        for spec, feature in zip(self.cut.tensors, made, strict=True):
            if not spec.fits(feature.dtype.name, feature.shape):
                raise BadModelError(
                    f"the head makes {feature.dtype}{list(feature.shape)} of {spec.name!r}, "
                    f"which was {spec.dtype}{list(spec.shape)}"
                )
        return made

    def _check_values(self, samples: Sequence[Inputs], features: Sequence[Sequence[Array]]) -> None:
        """Check that features are finite, and differ between samples."""
        pairs = [(one, spec) for made in features for one, spec in zip(made, self.cut.tensors, strict=True)]
        if not all(_finite(one, spec) for one, spec in pairs):
            raise BadModelError("its features are not finite")
        if _levels(samples[: len(features)]) > 1 and _levels(features) == 1:
            raise BadModelError(
                f"too few levels: its features are the same for all {len(features)} samples that were looked at"
            )

    def _ways(self, epsilons: Sequence[float], bits: int) -> Iterator[tuple[str, _Way, str | None]]:
        """Yield each release: its name, its function, and its tail if it is not the cut's own."""
        cut = self.cut
        entropy = np.random.default_rng((0, cut.index)).bytes  # the samples are public and need no protection
        if cut.calibration is not None:
            own = {noisy.epsilon: noisy.tail.path for noisy in cut.noise_tails}
            wanted = dict.fromkeys([(DEFAULT_EPSILON, DEFAULT_BITS), *((each, bits) for each in (*epsilons, *own))])
            for epsilon, width in wanted:
                spec = NoiseSpec(epsilon=epsilon, allocation=settle("auto", cut, epsilon), bits=width)
                plan = NoisePlan.make(spec, cut.tensors, cut.calibration)
                release = NoiseRelease(plan, entropy=entropy)
                name = f"noise of per-value epsilon {epsilon:g}"
                yield name, _noise(plan, release), own.get(epsilon)
        for book in cut.codebooks:
            spec_of = CodebookSpec(epsilon=_CODEBOOK_EPSILON, codewords=book.codewords, groups=book.groups)
            plan_of = CodebookPlan.make(spec_of, cut)
            path = self.root / book.file.path
            answers = CodebookRelease(plan_of, read_encoder(path, book, cut.tensors), entropy=entropy)
            decoder = read_decoder(path, book, cut.tensors)
            name = f"a codebook of {book.codewords} codewords"
            yield name, lambda one, p=plan_of, r=answers, d=decoder: recover_codebook(p, d, r(one)), None  # type: ignore[misc]

    def _answer(self, tail: Interpreter, features: Sequence[Array], how: str) -> None:
        """Run a tail, and read its outputs as for the record of a frame."""
        for output, spec in _outputs(tail, features, self.manifest.outputs):
            if self.finite and not _finite(output, spec):
                raise BadModelError(f"the tail's output {spec.name!r} is not finite{how}")


def _noise(plan: NoisePlan, release: NoiseRelease) -> _Way:
    return lambda features: recover(plan, release(features))


def _outputs(
    model: Interpreter, tensors: Sequence[Array], specs: Sequence[TensorSpec]
) -> list[tuple[Array, TensorSpec]]:
    """Run a model or tail, and compare its outputs with the manifest."""
    outputs = model.run([np.array(tensor) for tensor in tensors])
    for output, spec in zip(outputs, specs, strict=True):
        if not spec.fits(output.dtype.name, output.shape):
            raise BadModelError(
                f"output {spec.name!r} is {output.dtype}{list(output.shape)}, "
                f"expected {spec.dtype}{list(spec.shape)}"
            )
    return list(zip(outputs, specs, strict=True))


def _finite(array: Array, spec: TensorSpec) -> bool:
    return bool(np.isfinite(to_real(array, spec)).all())


def _levels(sets: Sequence[Sequence[Array]]) -> int:
    """Number of different sets of arrays."""
    return len({tuple((array + 0).tobytes() for array in one) for one in sets})  # -0 is 0

"""Compares the whole model's answers on this backend and processor with those on the preparing machine.

Within one backend on one machine head and tail equal the whole model bit for bit; between backends and processors
they may differ. A bundle has the whole model's outputs on random inputs, and `check_reference` measures this
machine's difference from them. As head∘tail equals the whole here, the result holds for every cut.

The tolerances, and the measured differences between ai-edge-litert 2.3 and tflite-runtime 2.14 on 31 models:
float models 1e-4 of the largest value of the output (measured: at most 3e-6); integer outputs 8 codes
(measured: 3 in EfficientNet-Lite0, 4 in a mixed face_landmark, 6 there with a head on one backend and the
tail on the other); float outputs of a model that is quantised inside 8/255 of the largest value. For
floats it is never less than 1e-6.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from split_model.arrays import Array
from split_model.bundle import Bundle, Manifest, Reference, TensorSpec, file_ref
from split_model.errors import BadBundleError
from split_model.interpreter import open_interpreter
from split_model.prepare.outputs import filled
from split_model.prepare.random_inputs import random_inputs

FILE = "reference.bin"
SETS = 2
_SEED = 20_110_927
FLOAT_TOLERANCE = 1e-4  # relative to the largest value of the output
CODES_TOLERANCE = 8.0
LEAST_TOLERANCE = 1e-6  # for floats: a probability may be 1e-8 on every random picture


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceCheck:
    """Difference from the reference: the largest one and the tolerance per output, in codes or real values.

    ``comparable`` is False if this NumPy draws other random numbers; then nothing was compared.
    """

    backend: str
    made_with: str
    comparable: bool
    within: bool
    max_abs_difference: tuple[float, ...]
    tolerance: tuple[float, ...]
    message: str


def make_reference(scratch: Path, manifest: Manifest, *, quantised: bool, backend: str | None = None) -> Reference:
    """Run the whole model of a new bundle and write its outputs into the folder.

    ``quantised``: whether any activation of the model is quantised. Errors as in `open_interpreter`.
    """
    whole = open_interpreter(scratch / manifest.model.path, backend=backend)
    inputs = _inputs(manifest)
    answers = [whole.run(one) for one in inputs]
    stored = [
        _filled(output, spec) for answer in answers for output, spec in zip(answer, manifest.outputs, strict=True)
    ]
    (scratch / FILE).write_bytes(b"".join(_little(output).tobytes() for output in stored))
    return Reference(
        outputs=file_ref(scratch, FILE),
        sets=SETS,
        inputs_sha256=_digest(inputs),
        tolerance=tuple(_tolerance(outputs, quantised=quantised) for outputs in zip(*answers, strict=True)),
        made_with=_version(whole.backend),
    )


def check_reference(bundle: Bundle, *, backend: str | None = None) -> ReferenceCheck | None:
    """Run the whole model of a bundle and compare; None if the bundle has no reference.

    Raises `BadBundleError` if the reference does not match the manifest; see also `open_interpreter`.
    """
    manifest = bundle.manifest
    reference = manifest.reference
    if reference is None:
        return None
    expected = _stored(bundle, reference)
    whole = open_interpreter(bundle.path(manifest.model), backend=backend)
    inputs = _inputs(manifest, sets=reference.sets)
    comparable = _digest(inputs) == reference.inputs_sha256
    gaps = [0.0] * len(manifest.outputs)
    for one, answer in zip(inputs, expected, strict=True) if comparable else ():
        for at, (output, was) in enumerate(zip(whole.run(one), answer, strict=True)):
            gaps[at] = max(gaps[at], _gap(_filled(output, manifest.outputs[at]), was))
    over = [at for at, gap in enumerate(gaps) if gap > reference.tolerance[at]]
    message = "" if comparable else "this NumPy draws other random inputs than the one the bundle was made with"
    if over:
        at = over[0]
        message = (
            f"output {at} differs from that of {reference.made_with} by up to {gaps[at]:.3g}, "
            f"over the tolerance of {reference.tolerance[at]:.3g}"
        )
    return ReferenceCheck(
        backend=_version(whole.backend),
        made_with=reference.made_with,
        comparable=comparable,
        within=not over,
        max_abs_difference=tuple(gaps),
        tolerance=reference.tolerance,
        message=message,
    )


def describe(check: ReferenceCheck) -> str:
    """One line for the user."""
    if not check.comparable or not check.within:
        return check.message
    shares = [
        f"{gap:.3g} (tolerance {most:.3g})"
        for gap, most in zip(check.max_abs_difference, check.tolerance, strict=True)
    ]
    return f"{check.backend} against the reference of {check.made_with}: outputs differ by {', '.join(shares)}"


def _inputs(manifest: Manifest, *, sets: int = SETS) -> list[list[Array]]:
    rng = np.random.default_rng(_SEED)
    return [random_inputs(manifest.inputs, rng, preprocess=manifest.preprocess) for _ in range(sets)]


def _stored(bundle: Bundle, reference: Reference) -> list[list[Array]]:
    raw = bundle.path(reference.outputs).read_bytes()
    specs = bundle.manifest.outputs
    if len(raw) != reference.sets * sum(spec.nbytes for spec in specs):
        raise BadBundleError(
            f"{bundle.root / reference.outputs.path}: not the outputs of the model",
            remedy="prepare the bundle again",
        )
    answers: list[list[Array]] = []
    at = 0
    for _ in range(reference.sets):
        answers.append([])
        for spec in specs:
            dtype = np.dtype(spec.dtype).newbyteorder("<")
            answers[-1].append(np.frombuffer(raw, dtype, count=spec.size, offset=at).reshape(spec.shape))
            at += spec.nbytes
    return answers


def _digest(inputs: Sequence[Sequence[Array]]) -> str:
    digest = hashlib.sha256()
    for one in inputs:
        for array in one:
            digest.update(_little(array).tobytes())
    return digest.hexdigest()


def _filled(array: Array, spec: TensorSpec) -> Array:
    """Pad an output of open size with zeros to its maximum size."""
    return filled(array, spec.shape) if spec.open_axes and spec.fits(array.dtype.name, array.shape) else array


def _little(array: Array) -> Array:
    return np.asarray(array, array.dtype.newbyteorder("<"))


def _tolerance(outputs: Sequence[Array], *, quantised: bool) -> float:
    if outputs[0].dtype.kind != "f":
        return CODES_TOLERANCE
    largest = max(float(np.abs(output.astype(np.float64)).max(initial=0.0)) for output in outputs)
    share = CODES_TOLERANCE / 255 if quantised else FLOAT_TOLERANCE
    return max(LEAST_TOLERANCE, float(f"{largest * share:.3g}"))


def _gap(left: Array, right: Array) -> float:
    """Largest absolute difference; infinite for other shapes, or if only one side is not finite."""
    if left.shape != right.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):
        gaps = np.asarray(
            np.abs(left.astype(np.float64) - right.astype(np.float64))
        )  # for scalars it is not an array
    gaps[(left == right) | ((left != left) & (right != right))] = 0.0  # noqa: PLR0124  # NaN equals no number
    return float(np.nan_to_num(gaps, nan=np.inf).max(initial=0.0))


def _version(backend: str) -> str:
    return f"{backend} {importlib.metadata.version(backend)}"

"""Checks a manifest's content, in this module only.

Types are checked when the manifest is decoded. This module checks the rest: paths stay inside the bundle, cuts
ascend, shapes and ranges are possible for a model. All other code may rely on it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import numpy as np

from split_model.bundle.manifest import (
    MAX_CODEWORDS,
    MAX_GROUPS,
    AllocationChoice,
    ChannelCalibration,
    Codebook,
    Cut,
    ImagePreprocess,
    Manifest,
    Reference,
    TensorSpec,
    TopK,
)
from split_model.bundle.reading_validation import check_reading
from split_model.bundle.records import FileRef
from split_model.errors import BadBundleError

#: Limits of an input or output tensor of a head, a tail or a model. The wire carries up to 8 dimensions and 64
#: outputs.
MAX_TENSOR_BYTES = 1 << 30
MAX_DIMENSIONS = 8
MAX_TENSORS = 64
#: Largest magnitude of a real value: that of float32, in which features are computed.
MAX_REAL = float(np.finfo(np.float32).max)
#: Limits of a model's picture input, in pixels per side.
MAX_SIDE = 1 << 14
_MAX_NAME = 200
#: Limits above those of any model: numbers that fit into a double, and a file that is read in about a minute.
_MAX_OPS, _MAX_MACS = 1 << 20, 1 << 53
_MAX_FILE_BYTES = 8 << 30
_HASH = re.compile(r"[0-9a-f]{64}\Z")
_INTEGERS = ("int8", "uint8", "int16", "int32", "int64")


def check_manifest(where: str, manifest: Manifest) -> None:
    """Check everything in a manifest that types do not cover.

    Args:
        where: The manifest's path, for messages.
        manifest: The decoded manifest.

    Raises:
        BadBundleError: Its content is invalid; the message names the fault.

    """
    if not manifest.name.isprintable() or not 1 <= len(manifest.name) <= _MAX_NAME:
        raise _bad(where, f"name {manifest.name[:_MAX_NAME]!r} is empty, too long or has control characters")
    if not 1 <= manifest.ops <= _MAX_OPS or not 0 <= manifest.macs <= _MAX_MACS:
        raise _bad(where, f"a model of {manifest.ops} ops and {manifest.macs} MACs")
    for ref in manifest.files():
        _check_file(where, ref)
    _check_tensors(f"{where}: inputs", manifest.inputs)
    _check_tensors(f"{where}: outputs", manifest.outputs)
    _check_left_out(where, manifest)
    indices = [cut.index for cut in manifest.cuts]
    if indices != sorted(set(indices)) or any(not 0 <= index < manifest.ops for index in indices):
        raise _bad(where, f"cuts {indices} are not ascending in 0..{manifest.ops - 1}")
    for cut in manifest.cuts:
        _check_cut(f"{where}: cut {cut.index}", cut)
    if manifest.preprocess is not None:
        _check_preprocess(f"{where}: preprocess", manifest.preprocess)
    _check_answers(where, manifest)
    check_answer_schema(where, manifest)
    if manifest.reference is not None:
        _check_reference(where, manifest.reference, outputs=len(manifest.outputs))


def _check_answers(where: str, manifest: Manifest) -> None:
    if manifest.answer is not None and manifest.reading is not None:
        raise _bad(where, "its outputs are read as classes and as another kind of answer")
    if manifest.answer is not None:
        _check_answer(f"{where}: answer", manifest.answer, manifest.outputs)
    if manifest.reading is not None:
        check_reading(f"{where}: reading", manifest.reading, manifest.outputs)


def _check_left_out(where: str, manifest: Manifest) -> None:
    if any(not 0 <= left.index < manifest.ops or not left.reason.isprintable() for left in manifest.left_out):
        raise _bad(where, f"a cut that was left out lies outside 0..{manifest.ops - 1}, or has an odd reason")
    if any(tensor.open_axes for tensor in manifest.inputs):
        raise _bad(where, "an input whose size is open")


def check_answer_schema(where: str, manifest: Manifest) -> None:
    """Check that an answer schema has an entry for each output, with the same number of values.

    Raises:
        BadBundleError: It has not, or its weights are invalid.

    """
    if not manifest.answer_schema:
        return
    sizes = [math.prod(entry.shape) for entry in manifest.answer_schema]
    expected = [output.size for output in manifest.outputs]
    if sizes != expected:
        raise BadBundleError(
            f"{where}: the answer schema has outputs of {sizes} values, the model {expected}",
            remedy="prepare the bundle again",
        )
    weights = [entry.weight for entry in manifest.answer_schema]
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise BadBundleError(
            f"{where}: the answer schema has weights {weights}; they must be 0 or more, and not all 0",
            remedy="prepare the bundle again",
        )


def _check_reference(where: str, reference: Reference, *, outputs: int) -> None:
    if len(reference.tolerance) != outputs or not _all_within(reference.tolerance, 0.0):
        raise _bad(where, "the reference is not one tolerance of 0 or more an output")
    if not 1 <= reference.sets <= 1 << 10:
        raise _bad(where, f"a reference of {reference.sets} sets of inputs")


def _check_file(where: str, ref: FileRef) -> None:
    relative = PurePosixPath(ref.path)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts or not ref.path.isprintable():
        raise _bad(where, f"file {ref.path!r} lies outside the bundle")
    if not _HASH.match(ref.sha256) or not 0 <= ref.size_bytes <= _MAX_FILE_BYTES:
        raise _bad(where, f"file {ref.path!r} has no SHA-256 of 64 hex digits, or no size of up to 8 GiB")


def _check_tensors(where: str, tensors: Sequence[TensorSpec]) -> None:
    if not 1 <= len(tensors) <= MAX_TENSORS:
        raise _bad(where, f"{len(tensors)} tensors; from 1 to {MAX_TENSORS} can be carried")
    for tensor in tensors:
        _check_tensor(f"{where}: {tensor.name[:_MAX_NAME]!r}", tensor)


def _check_tensor(where: str, tensor: TensorSpec) -> None:
    if list(tensor.open_axes) != sorted(set(tensor.open_axes) & set(range(len(tensor.shape)))):
        raise _bad(where, f"open axes {list(tensor.open_axes)} are not ascending axes of {list(tensor.shape)}")
    if len(tensor.shape) > MAX_DIMENSIONS or any(side < 1 for side in tensor.shape):
        raise _bad(where, f"shape {list(tensor.shape)} has a side below 1, or over {MAX_DIMENSIONS} dimensions")
    if tensor.nbytes > MAX_TENSOR_BYTES:
        raise _bad(where, f"shape {list(tensor.shape)} is {tensor.nbytes} bytes, over {MAX_TENSOR_BYTES}")
    if not 0.0 <= tensor.scale <= MAX_REAL:
        raise _bad(where, f"scale {tensor.scale} is invalid")
    if tensor.dtype in _INTEGERS:
        limits = np.iinfo(tensor.dtype)
        if not limits.min <= tensor.zero_point <= limits.max:
            raise _bad(where, f"zero point {tensor.zero_point} is not a {tensor.dtype}")
    elif tensor.zero_point != 0 or tensor.scale != 0.0:
        raise _bad(where, f"a {tensor.dtype} tensor has a scale or a zero point")


def _check_cut(where: str, cut: Cut) -> None:
    if (cut.head is None) != (cut.index == 0):
        raise _bad(where, "only cut 0 has no head")
    if not (0 <= cut.head_macs <= _MAX_MACS and 0 <= cut.tail_macs <= _MAX_MACS):
        raise _bad(where, f"a head of {cut.head_macs} MACs and a tail of {cut.tail_macs}")
    _check_tensors(where, cut.tensors)
    if any(not tensor.shape or tensor.open_axes for tensor in cut.tensors):
        raise _bad(where, "a live tensor without a fixed shape cannot be released")
    _check_releases(where, cut)
    if cut.calibration is None:
        return
    if len(cut.calibration) != len(cut.tensors):
        raise _bad(where, f"calibration for {len(cut.calibration)} tensors of {len(cut.tensors)}")
    for tensor, channels in zip(cut.tensors, cut.calibration, strict=True):
        _check_channels(f"{where}: {tensor.name!r}", tensor, channels)


def _check_channels(where: str, tensor: TensorSpec, channels: ChannelCalibration) -> None:
    columns = (channels.clip_low, channels.clip_high, channels.rank, channels.weight)
    if any(len(column) != tensor.shape[-1] for column in columns):
        raise _bad(where, "calibration is not one value a channel")
    if not all(_all_within(column, -MAX_REAL / 2) for column in (channels.clip_low, channels.clip_high)):
        raise _bad(where, f"a clip bound is not finite, or beyond {MAX_REAL / 2:.3g}")
    if not all(low < high for low, high in zip(channels.clip_low, channels.clip_high, strict=True)):
        raise _bad(where, "a clip range is empty")
    if not _all_within(channels.rank, 0.0) or max(channels.rank) > max(tensor.shape):
        raise _bad(where, f"a rank is below 0 or over {max(tensor.shape)}, the longest side")
    if not _all_within(channels.weight, 0.0):
        raise _bad(where, "a weight is below 0 or not finite")


def _check_releases(where: str, cut: Cut) -> None:
    """Check that codebooks and noise-aware tails are unique by the fields that name them on the wire."""
    names = [(book.codewords, book.groups) for book in cut.codebooks]
    epsilons = [noisy.epsilon for noisy in cut.noise_tails]
    if len(set(names)) != len(names) or len(set(epsilons)) != len(epsilons):
        raise _bad(where, "two codebooks or noise-aware tails for the same release")
    for book in cut.codebooks:
        _check_codebook(where, book)
    if not all(0 < epsilon < math.inf for epsilon in epsilons):
        raise _bad(where, "a noise-aware tail without a finite epsilon")
    for choice in (cut.allocation, *(noisy.allocation for noisy in cut.noise_tails)):
        if choice is not None:
            _check_allocation(where, choice)


def _check_codebook(where: str, book: Codebook) -> None:
    if not (2 <= book.codewords <= MAX_CODEWORDS and 1 <= book.groups <= MAX_GROUPS):
        raise _bad(where, f"a codebook of {book.codewords} codewords and {book.groups} groups")
    if book.samples < 0 or not (math.isfinite(book.lookup) and math.isfinite(book.chance)):
        raise _bad(where, f"a codebook measured on {book.samples} samples as {book.lookup} and {book.chance}")
    if book.lookup > 1.0 or (book.truth != "variance" and not (book.lookup >= 0.0 and 0.0 <= book.chance <= 1.0)):
        raise _bad(where, f"a codebook whose lookup is right {book.lookup} of the time, by chance {book.chance}")
    if book.decoded and (book.groups != 1 or len(book.decoded) != book.codewords or min(book.decoded) < 0):
        raise _bad(where, f"a codebook of {book.codewords} codewords that decode as {len(book.decoded)} classes")
    if book.confusion and (
        min(min(row) for row in book.confusion) < 0 or sum(row[2] for row in book.confusion) != book.samples
    ):
        raise _bad(where, "a codebook whose confusion is not that of its held-out samples")


def _check_allocation(where: str, choice: AllocationChoice) -> None:
    trials = {trial.allocation for trial in choice.trials}
    if not 0 < choice.epsilon < math.inf or not 1 <= choice.bits <= 16 or choice.best not in trials:
        raise _bad(
            where, f"allocation {choice.best!r} at epsilon {choice.epsilon}, {choice.bits} bits was not tried"
        )


def _check_preprocess(where: str, preprocess: ImagePreprocess) -> None:
    sides = (preprocess.resize, *preprocess.crop)
    if not all(1 <= side <= MAX_SIDE for side in sides):
        raise _bad(where, f"sides {sides} are not within 1..{MAX_SIDE}")
    if not _all_within(preprocess.mean, -MAX_REAL) or not _all_within(preprocess.scale, -MAX_REAL):
        raise _bad(where, "a mean or a scale is not finite")
    if 0.0 in preprocess.scale:
        raise _bad(where, "a scale of 0")
    if not 0 <= preprocess.pad <= 255:
        raise _bad(where, f"pad {preprocess.pad} is not within 0..255")


def _check_answer(where: str, answer: TopK, outputs: Sequence[TensorSpec]) -> None:
    if not 0 <= answer.output < len(outputs):
        raise _bad(where, f"reads output {answer.output} of {len(outputs)}")
    if answer.k < 1:
        raise _bad(where, f"the best {answer.k} classes")
    shape = outputs[answer.output].shape
    if not shape or math.prod(shape) != max(shape):
        raise _bad(where, f"reads output {answer.output} of {list(shape)} as classes: it is not a single vector")


def _all_within(values: Iterable[float], low: float) -> bool:
    """Whether every value is finite, at least ``low`` and at most float32's largest."""
    return all(low <= value <= MAX_REAL for value in values)


def _bad(where: str, problem: str) -> BadBundleError:
    return BadBundleError(f"{where}: {problem}", remedy="prepare the bundle again")

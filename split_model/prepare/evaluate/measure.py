"""Measures how often the answer through a release is the unsplit model's, by cut and epsilon.

Agreement is with the unprotected whole model, by a measure that fits the answer (`evaluate.agreement`); accuracy is
top-1 against labels, if the data have them; the error of the outputs is given as well. Every sample is released
several times with fresh noise. Draws of one sample are not independent of each other, so all 95 % intervals are
over samples: Wilson's for proportions (which is then on the safe side, as the mean of several draws varies less
than one), the bootstrap for errors.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model import __version__
from split_model.answers.reader import AnswerReader
from split_model.bundle import Bundle, Cut
from split_model.bundle.evaluation import FORMAT, DataRecord, Evaluation
from split_model.errors import BackendError, BadBundleError, UsageError
from split_model.features.data import Data, Sample, open_data, read_labels
from split_model.interpreter import open_interpreter
from split_model.prepare.assemble import Progress
from split_model.prepare.evaluate.agreement import class_output
from split_model.prepare.evaluate.intervals import bootstrap, wilson
from split_model.prepare.evaluate.variants import (
    Halves,
    Known,
    Variant,
    clipped,
    codebook_variants,
    noise_variants,
)
from split_model.prepare.outputs import Spread, output_weights, real_outputs
from split_model.privacy import AllocationWish, NoiseSpec, settle
from split_model.privacy.plan import why_unreleasable

Floats = NDArray[np.float64]
Entropy = Callable[[int], bytes]
_log = logging.getLogger(__name__)

__all__ = ["bootstrap", "clipped", "evaluate", "open_for", "wilson"]


def evaluate(
    bundle: Bundle,
    data: Data | Path,
    *,
    entropy: Entropy,
    epsilons: Sequence[float],
    whole_input_epsilons: Sequence[float] = (),
    cuts: Sequence[int] | None = None,
    allocations: Sequence[AllocationWish] = ("auto",),
    bits: int = 8,
    draws: int = 3,
    backend: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Release every sample at every cut (all calibrated ones, or the named ones) by all wanted releases.

    ``epsilons``: of the noise release, mean per value. ``whole_input_epsilons``: of the codebook release, at every
    cut that has codebooks, through each of them; the local lookup is measured beside it.

    ``data``: DATA for `open_data`, or opened data. ``entropy(n)`` gives n random bytes, as `os.urandom` does.
    ``auto`` is the bundle's best allocation at each cut. ``progress`` is called with ("evaluating", samples done,
    samples in all). Raises `UsageError` for a cut that is not offered, `BadBundleError` where the bundle has no
    calibration.
    """
    if draws < 1:
        raise UsageError(f"draws = {draws}", remedy="take one release a sample at least")
    answer = class_output(bundle.manifest)
    variants: list[Variant] = []
    for cut in _chosen(bundle, cuts, codebooks=bool(whole_input_epsilons) and not epsilons):
        halves = Halves(bundle, cut, backend)
        if cut.calibration is not None:
            specs = _specs(cut, epsilons, allocations, bits)
            variants += noise_variants(halves, specs, draws, entropy)
        variants += codebook_variants(halves, whole_input_epsilons, draws, entropy)
    name = str(data) if isinstance(data, Path) else ""
    data = open_for(bundle, data) if isinstance(data, Path) else data
    whole = open_interpreter(bundle.path(bundle.manifest.model), backend=backend)
    reader = None if bundle.manifest.reading is None else AnswerReader.of(bundle)
    correct: list[bool] = []
    digest, spread = hashlib.sha256(), Spread(output_weights(bundle.manifest))
    for done, sample in enumerate(data):
        _add_to(digest, sample)
        known = Known(real_outputs(whole, sample.tensors), answer, sample.label, reader)
        spread.add(known.outputs)
        if sample.label is not None:
            correct.append(known.check_label(sample.name))
        variants = _counted(variants, sample, known, all_of_them=cuts is not None)
        if progress is not None:
            progress("evaluating", done + 1, len(data))
    return Evaluation(
        format=FORMAT,
        bundle=bundle.identity,
        data=DataRecord(name=name, sha256=digest.hexdigest(), samples=len(data), labelled=len(correct)),
        unprotected_accuracy=wilson(sum(correct) / len(correct), len(correct)) if correct else None,
        rows=tuple(variant.row(len(data), len(correct), spread) for variant in variants),
        made_by=f"split-model {__version__}",
    )


def _counted(variants: Sequence[Variant], sample: Sample, known: Known, *, all_of_them: bool) -> list[Variant]:
    """Count a sample; returns the variants whose cuts run. With ``all_of_them`` a failing cut raises."""
    failed: dict[int, BackendError] = {}
    for variant in variants:
        if variant.cut in failed:
            continue
        error = variant.failure(sample.tensors, known)
        if error is not None and all_of_them:
            raise error
        if error is not None:
            failed[variant.cut] = error
            _log.warning("cut %d is left out: %s", variant.cut, error)
    return [variant for variant in variants if variant.cut not in failed]


def open_for(bundle: Bundle, path: Path) -> Data:
    """Open DATA for this bundle's model; folders may be named by its labels."""
    manifest = bundle.manifest
    named = None if manifest.answer is None else manifest.answer.labels  # only classes name folders
    labels = None if named is None else read_labels(bundle.path(named))
    return open_data(path, manifest.inputs, manifest.preprocess, labels)


def _add_to(digest: Any, sample: Sample) -> None:
    for tensor in sample.tensors:
        digest.update(repr((tensor.dtype.str, tensor.shape, sample.label)).encode())
        digest.update(np.ascontiguousarray(tensor).data)


def _chosen(bundle: Bundle, cuts: Sequence[int] | None, *, codebooks: bool) -> list[Cut]:
    offered = [cut.index for cut in bundle.manifest.cuts]
    missing = sorted(set(cuts or ()) - set(offered))
    if missing:
        raise UsageError(f"{bundle.root}: cut {missing[0]} is not offered", remedy=f"choose among {offered}")
    chosen = [cut for cut in bundle.manifest.cuts if cuts is None or cut.index in cuts]
    if codebooks:
        with_books = [cut for cut in chosen if cut.codebooks]
        if not with_books:
            raise BadBundleError(f"{bundle.root}: no codebook there", remedy="prepare the bundle with --codebook")
        return with_books
    uncalibrated = [cut.index for cut in chosen if cut.calibration is None]
    if cuts is None:
        for cut in chosen:
            if reason := _why_not(cut):
                _log.warning("cut %d is left out: %s", cut.index, reason)
        chosen = [cut for cut in chosen if cut.calibration is not None and _why_not(cut) is None]
    elif uncalibrated:
        raise BadBundleError(
            f"{bundle.root}: cut {uncalibrated[0]} has no calibration",
            remedy="prepare the bundle with --calibration",
        )
    if not chosen:
        raise BadBundleError(
            f"{bundle.root}: no cut has a calibration", remedy="prepare the bundle with --calibration"
        )
    return chosen


def _why_not(cut: Cut) -> str | None:
    """Why noise cannot be added at a cut that the bundle offers all the same; None if it can."""
    return next(filter(None, map(why_unreleasable, cut.tensors)), None)


def _specs(
    cut: Cut, epsilons: Sequence[float], allocations: Sequence[AllocationWish], bits: int
) -> list[NoiseSpec]:
    """The requested releases at one cut; ``auto`` and the allocation that it selects are measured once."""
    return [
        NoiseSpec(epsilon=epsilon, allocation=allocation, bits=bits)
        for epsilon in epsilons
        for allocation in dict.fromkeys(settle(wish, cut, epsilon) for wish in allocations)
    ]

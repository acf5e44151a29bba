"""What ``split-model prepare`` does: one ``.tflite`` and public data in, a bundle out, whole or not at all."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from split_model import __version__
from split_model.arrays import Array
from split_model.bundle import Bundle, ChannelCalibration, Cut, Manifest, write_manifest, writing
from split_model.bundle.records import Scores
from split_model.bundle.validation import check_answer_schema
from split_model.errors import BadBundleError, BadInputError, UsageError
from split_model.features.data import Data, ImageFolder, open_data, read_labels
from split_model.features.preprocess import check_preprocess
from split_model.interpreter import open_interpreter
from split_model.prepare.answer import ScoreCheck, declared_answer, describe
from split_model.prepare.assemble import Progress, write_bundle
from split_model.prepare.calibrate.allocators import TrialOptions, try_allocations
from split_model.prepare.calibrate.augmentation import AugmentedPictures, calibration_samples
from split_model.prepare.calibrate.calibration import CalibrationOptions, CutModels, calibrate
from split_model.prepare.calibrate.resume import KeptCalibration
from split_model.prepare.choice import choose_cuts
from split_model.prepare.codebook.codebooks import CodebookWish, add_codebooks
from split_model.prepare.dry_run import FAILURES, SAMPLES, dry_run, one_line, without
from split_model.prepare.noise_tails import add_noise_tails
from split_model.prepare.outputs import output_weights
from split_model.prepare.own_input import InputWish, check_settled, declared_preprocess
from split_model.prepare.random_inputs import random_inputs
from split_model.prepare.reading_check import with_reading
from split_model.prepare.reading_choice import wished_answer, with_row_bound
from split_model.prepare.reading_declaration import ReadingWish
from split_model.prepare.reference import make_reference
from split_model.prepare.tflite.ending import Ending
from split_model.prepare.tflite.graph import Graph
from split_model.prepare.tflite.reading import read_model
from split_model.prepare.tflite.shapes import open_model, with_input_shape
from split_model.privacy.plan import why_unreleasable

_log = logging.getLogger(__name__)

#: Answers that scores are checked on: to random inputs, and to samples of the public data.
_CHECKED_RANDOM, _CHECKED_SAMPLES = 4, 32
_CODEBOOK_SAMPLES = 2000  # fewer pictures than this are eked out with crops of them


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """What the user asks for. ``cuts``: how many to choose, op indices to take, or None for every legal one."""

    model: Path
    output: Path
    name: str | None = None
    cuts: int | tuple[int, ...] | None = 8
    preprocess: Path | None = None
    input: InputWish = field(default_factory=InputWish)
    input_shape: tuple[int, ...] | None = None
    labels: Path | None = None
    top_k: int = 5
    scores: Scores | None = None
    labels_output: int | None = None
    answer: Path | None = None
    without: tuple[int, ...] = ()
    calibration: Path | None = None
    calibration_options: CalibrationOptions = field(default_factory=CalibrationOptions)
    trial_options: TrialOptions = field(default_factory=TrialOptions)
    codebooks: tuple[CodebookWish, ...] = ()
    codebook_data: Path | None = None
    noise_tails: Path | None = None
    replace: bool = False


def prepare(options: PrepareOptions, progress: Progress) -> Bundle:
    """Cut, calibrate, write; returns the finished bundle, opened and checked.

    Without calibration data the bundle has no clip ranges, and nothing can be released from it. An
    interrupted run leaves the calibration of its finished cuts behind, and the next one takes it up.
    The same inputs give the same bytes on the same machine.
    """
    with tempfile.TemporaryDirectory(prefix="split-model-") as folder:
        return _prepared(options, _settled(options, Path(folder)), progress)


def _settled(options: PrepareOptions, folder: Path) -> Path:
    """The model's file, or one in ``folder`` whose open input shape is the one that was asked for."""
    if options.input_shape is None:
        return options.model
    path = folder / options.model.name
    path.write_bytes(with_input_shape(read_model(options.model), options.input_shape))
    return path


def _prepared(options: PrepareOptions, model_path: Path, progress: Progress) -> Bundle:
    original = read_model(options.model)
    if options.input_shape is None:
        check_settled(original)
    model = open_model(model_path)
    # A model that was given its input shape has another path, and has lost its metadata.
    model = replace(model, graph=replace(model.graph, source=str(options.model)))
    schema, wish = wished_answer(options.answer, model.graph)
    model = with_row_bound(model, wish)
    points, left_out = choose_cuts(
        model,
        wanted=options.cuts,
        left_out_by_hand=options.without,
        for_noise=options.calibration is not None,
        with_codebook={wish.cut for wish in options.codebooks},
    )
    folders = any(path is not None and path.is_dir() for path in (options.calibration, options.codebook_data))
    told = replace(model, metadata=original.metadata, buffers=original.buffers)
    preprocess = declared_preprocess(told, options.preprocess, options.input, pictures=folders)
    with writing(options.output, replace=options.replace) as scratch:
        answer, ending = declared_answer(
            model.graph,
            scratch,
            labels=options.labels if wish is None else None,
            top_k=options.top_k,
            scores=options.scores,
            output=options.labels_output,
        )
        manifest = write_bundle(
            scratch,
            model_path=model_path,
            model=model,
            cuts=points,
            name=options.name or options.model.stem,
            preprocess=preprocess,
            answer=answer,
            made_by=f"split-model {__version__}",
            progress=progress,
        )
        if preprocess is not None:
            check_preprocess(preprocess, manifest.inputs[0])
        manifest = msgspec.structs.replace(manifest, answer_schema=schema, left_out=left_out)
        try:
            check_answer_schema(str(options.answer), manifest)
        except BadBundleError as error:
            raise BadInputError(error.problem, remedy=error.remedy) from None
        quantised = any(tensor.quantised and not tensor.constant for tensor in model.graph.tensors)
        reference = make_reference(scratch, manifest, quantised=quantised)
        manifest = msgspec.structs.replace(manifest, reference=reference)
        if ending is not None:
            _check_scores(scratch, manifest, ending, options)
        manifest = _with_reading(scratch, manifest, model.graph, wish, options)
        kept = None
        if options.noise_tails is not None:
            manifest = add_noise_tails(scratch, manifest, options.noise_tails)
        if options.calibration is not None:
            manifest, kept = _calibrated(scratch, manifest, options, progress)
        if options.codebooks:
            manifest = add_codebooks(
                scratch, manifest, options.codebooks, _codebook_data(options, manifest), progress
            )
        manifest = _tried(scratch, manifest, options, progress)
        write_manifest(scratch, manifest)
        Bundle.open(scratch)
    if kept is not None:
        kept.discard()
    return Bundle.open(options.output, check_files=False)


def _with_reading(
    scratch: Path, manifest: Manifest, graph: Graph, wish: ReadingWish | None, options: PrepareOptions
) -> Manifest:
    """The manifest with how outputs are read, if they are read as boxes, landmarks, a map or a vector."""
    if wish is None:
        return manifest
    samples = _first_samples(manifest, options, _CHECKED_SAMPLES)
    return with_reading(scratch, manifest, graph, wish, labels=options.labels, samples=samples)


def _first_samples(manifest: Manifest, options: PrepareOptions, count: int) -> list[tuple[Array, ...]]:
    """The first samples of the public data; two random ones where there is none."""
    if options.calibration is not None:
        data = open_data(options.calibration, manifest.inputs, manifest.preprocess)
        return [sample.tensors for sample in islice(data, count)]
    rng = np.random.default_rng(0)
    return [tuple(random_inputs(manifest.inputs, rng, preprocess=manifest.preprocess)) for _ in range(2)]


def _tried(scratch: Path, manifest: Manifest, options: PrepareOptions, progress: Progress) -> Manifest:
    """The manifest without the cuts that do not work, which their dry run tells."""
    samples = _first_samples(manifest, options, SAMPLES)
    trial = options.trial_options
    epsilons = (trial.epsilon,) if options.calibration is not None else ()
    reasons = dry_run(scratch, manifest, samples, epsilons=epsilons, bits=trial.bits, progress=progress)
    return without(scratch, manifest, reasons) if reasons else manifest


def _check_scores(scratch: Path, manifest: Manifest, ending: Ending, options: PrepareOptions) -> None:
    """Compare what the scores are declared to be with the model's answers to random inputs and public data."""
    assert manifest.answer is not None
    whole = open_interpreter(scratch / manifest.model.path)
    found = ScoreCheck(manifest.answer, manifest.outputs[manifest.answer.output], ending)
    generator = np.random.default_rng(0)
    for _ in range(_CHECKED_RANDOM):
        found.add(whole.run(random_inputs(manifest.inputs, generator, preprocess=manifest.preprocess)))
    if options.calibration is not None:
        for sample in islice(
            open_data(options.calibration, manifest.inputs, manifest.preprocess), _CHECKED_SAMPLES
        ):
            found.add(whole.run(sample.tensors))
    _log.info("%s", describe(manifest.answer, ending, declared=options.scores is not None))
    if advice := found.check():
        _log.warning("%s", advice)


def _codebook_data(options: PrepareOptions, manifest: Manifest) -> Data:
    path = options.codebook_data or options.calibration
    if path is None:
        raise UsageError(
            "--codebook needs public data to learn from", remedy="give --calibration or --codebook-data"
        )
    named = None if manifest.answer is None or options.labels is None else read_labels(options.labels)
    data = open_data(path, manifest.inputs, manifest.preprocess, named)
    least = _CODEBOOK_SAMPLES
    return AugmentedPictures(data, least=least) if isinstance(data, ImageFolder) and len(data) < least else data


def _calibrated(
    scratch: Path, manifest: Manifest, options: PrepareOptions, progress: Progress
) -> tuple[Manifest, KeptCalibration]:
    """The manifest with every cut calibrated and its allocations tried, and what an interrupted run would find."""
    assert options.calibration is not None
    data = open_data(options.calibration, manifest.inputs, manifest.preprocess)
    weights = output_weights(manifest)
    calibration = replace(options.calibration_options, output_weights=weights)
    samples = calibration_samples(data, count=calibration.samples, seed=calibration.seed)
    kept = KeptCalibration(options.output, samples, calibration)
    usable = [cut for cut in manifest.cuts if not any(map(why_unreleasable, cut.tensors))]
    reasons: dict[int, str] = {}
    found: dict[int, tuple[ChannelCalibration, ...]] = {
        cut.index: known for cut in usable if (known := kept.load(cut)) is not None
    }
    if found:
        _log.info("calibration of %d of %d cuts from an interrupted run taken up", len(found), len(usable))
    models = {cut.index: _models(scratch, cut) for cut in usable}
    rest = {cut.index: cut for cut in usable if cut.index not in found}
    found |= calibrate(
        [models[index] for index in rest],
        samples,
        options=calibration,
        progress=lambda done, total: progress("calibrating", done, total),
        finished=lambda index, numbers: kept.keep(rest[index], numbers),
        failed=lambda index, error: reasons.update({index: one_line(error, scratch)}),
    )
    trial = replace(options.trial_options, output_weights=weights)
    cuts = []
    for done, cut in enumerate(manifest.cuts):
        progress("trying allocations", done, len(manifest.cuts))
        if cut.index not in found:
            cuts.append(cut)
            continue
        try_one = partial(
            try_allocations,
            models[cut.index],
            found[cut.index],
            samples,
            answer=None if manifest.answer is None else manifest.answer.output,
        )
        try:
            tails = tuple(
                msgspec.structs.replace(
                    noisy,
                    allocation=try_one(
                        options=replace(trial, epsilon=noisy.epsilon), noise_tail=scratch / noisy.tail.path
                    ),
                )
                for noisy in cut.noise_tails
            )
            best = try_one(options=trial)
        except FAILURES as error:
            reasons[cut.index] = one_line(error, scratch)
            cuts.append(cut)
            continue
        cuts.append(msgspec.structs.replace(cut, calibration=found[cut.index], allocation=best, noise_tails=tails))
    progress("trying allocations", len(cuts), len(cuts))
    manifest = msgspec.structs.replace(manifest, cuts=tuple(cuts))
    return without(scratch, manifest, reasons) if reasons else manifest, kept


def _models(root: Path, cut: Cut) -> CutModels:
    return CutModels(
        index=cut.index,
        head=None if cut.head is None else root / cut.head.path,
        tail=root / cut.tail.path,
        tensors=cut.tensors,
    )

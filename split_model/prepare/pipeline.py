"""The steps of ``split-model prepare``: makes a bundle of a ``.tflite`` and public data, atomically."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from split_model import __version__
from split_model.arrays import Array
from split_model.bundle import Bundle, Manifest, evaluation, write_manifest, writing
from split_model.bundle.records import Scores
from split_model.bundle.validation import check_answer_schema
from split_model.errors import BadBundleError, BadInputError, UsageError
from split_model.features.data import Data, ImageFolder, open_data, read_labels
from split_model.features.preprocess import check_preprocess
from split_model.interpreter import open_interpreter
from split_model.prepare.answer import ScoreCheck, declared_answer, describe
from split_model.prepare.assemble import Progress, write_bundle
from split_model.prepare.calibrate.allocators import TrialOptions
from split_model.prepare.calibrate.augmentation import AugmentedPictures
from split_model.prepare.calibrate.bundle_calibration import CalibratedBundle, calibrate_bundle
from split_model.prepare.calibrate.calibration import CalibrationOptions
from split_model.prepare.choice import choose_cuts
from split_model.prepare.codebook.codebooks import CodebookWish, LearnedCodebooks, add_codebooks, check_wishes
from split_model.prepare.dry_run import SAMPLES, dry_run, without
from split_model.prepare.evaluate.held_out import measure_prepared
from split_model.prepare.evaluate.judging import FigureOptions
from split_model.prepare.noise_tails import add_noise_tails
from split_model.prepare.own_input import InputWish, check_settled, declared_preprocess
from split_model.prepare.random_inputs import random_inputs
from split_model.prepare.reading_check import with_reading
from split_model.prepare.reading_choice import wished_answer, with_row_bound
from split_model.prepare.reading_declaration import ReadingWish
from split_model.prepare.reference import make_reference
from split_model.prepare.sample_check import check_samples
from split_model.prepare.tflite.ending import Ending
from split_model.prepare.tflite.graph import Graph
from split_model.prepare.tflite.reading import read_model
from split_model.prepare.tflite.shapes import open_model, with_input_shape

_log = logging.getLogger(__name__)

#: Number of answers for the check of scores: to random inputs, and to samples of the public data.
_CHECKED_RANDOM, _CHECKED_SAMPLES = 4, 32
_CODEBOOK_SAMPLES = 2000  # fewer pictures than this are augmented by crops of them


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """The user's options. ``cuts``: number of cuts to choose, op indices to take, or None for every legal one."""

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
    figure_options: FigureOptions = field(default_factory=FigureOptions)
    replace: bool = False


def prepare(options: PrepareOptions, progress: Progress) -> Bundle:
    """Cut, calibrate, write; returns the finished bundle, opened and checked.

    Without calibration data the bundle has no clip ranges, and only unprotected features can leave. An interrupted
    run leaves the calibration of its finished cuts, which the next run reuses. The same inputs give the same bytes
    on the same machine.
    """
    with tempfile.TemporaryDirectory(prefix="split-model-") as folder:
        return _prepared(options, _settled(options, Path(folder)), progress)


def _settled(options: PrepareOptions, folder: Path) -> Path:
    """Return the model's file, or a copy in ``folder`` with the wanted input shape."""
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
            model=options.model if options.answer is None and wish is None else None,
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
        check_samples(scratch, manifest, options.calibration)
        if ending is not None:
            manifest = _with_scores(scratch, manifest, ending, options)
        manifest = _with_reading(scratch, manifest, model.graph, wish, options)
        codebook_data = _codebook_data(scratch, options, manifest) if options.codebooks else None
        if codebook_data is not None:
            check_wishes(manifest, options.codebooks, codebook_data)
        calibrated, books = None, LearnedCodebooks()
        if options.noise_tails is not None:
            manifest = add_noise_tails(scratch, manifest, options.noise_tails)
        if options.calibration is not None:
            calibrated = _calibrated(scratch, manifest, options, progress)
            manifest = calibrated.manifest
        if codebook_data is not None:
            manifest, books = add_codebooks(scratch, manifest, options.codebooks, codebook_data, progress)
        manifest = _tried(scratch, manifest, options, progress)
        write_manifest(scratch, manifest)
        bundle = Bundle.open(scratch)
        _store_figures(bundle, calibrated, books, options, progress)
    if calibrated is not None:
        calibrated.kept.discard()
    return Bundle.open(options.output, check_files=False)


def _with_reading(
    scratch: Path, manifest: Manifest, graph: Graph, wish: ReadingWish | None, options: PrepareOptions
) -> Manifest:
    """Add the reading of outputs as boxes, landmarks, a map or a vector to the manifest, if there is one."""
    if wish is None:
        return manifest
    samples = _first_samples(manifest, options, _CHECKED_SAMPLES)
    return with_reading(scratch, manifest, graph, wish, labels=options.labels, samples=samples)


def _first_samples(manifest: Manifest, options: PrepareOptions, count: int) -> list[tuple[Array, ...]]:
    """The first samples of the public data; two random ones without data."""
    if options.calibration is not None:
        data = open_data(options.calibration, manifest.inputs, manifest.preprocess)
        return [sample.tensors for sample in islice(data, count)]
    rng = np.random.default_rng(0)
    return [tuple(random_inputs(manifest.inputs, rng, preprocess=manifest.preprocess)) for _ in range(2)]


def _tried(scratch: Path, manifest: Manifest, options: PrepareOptions, progress: Progress) -> Manifest:
    """Remove the cuts from the manifest whose dry run fails."""
    samples = _first_samples(manifest, options, SAMPLES)
    trial = options.trial_options
    epsilons = (trial.epsilon,) if options.calibration is not None else ()
    reasons = dry_run(scratch, manifest, samples, epsilons=epsilons, bits=trial.bits, progress=progress)
    return without(scratch, manifest, reasons) if reasons else manifest


def _with_scores(scratch: Path, manifest: Manifest, ending: Ending, options: PrepareOptions) -> Manifest:
    """Check the manifest's scores on the model's answers to random inputs and public data.

    If the graph's ending does not show the kind of scores, the answers do: values that all lie in 0..1 are not
    logits.
    """
    answer = manifest.answer
    assert answer is not None
    whole = open_interpreter(scratch / manifest.model.path)
    found = ScoreCheck(answer, manifest.outputs[answer.output], ending)
    generator = np.random.default_rng(0)
    for _ in range(_CHECKED_RANDOM):
        found.add(whole.run(random_inputs(manifest.inputs, generator, preprocess=manifest.preprocess)))
    if options.calibration is not None:
        for sample in islice(
            open_data(options.calibration, manifest.inputs, manifest.preprocess), _CHECKED_SAMPLES
        ):
            found.add(whole.run(sample.tensors))
    if options.scores is None and answer.scores == "logits":
        scores, why = found.taken()
        if why:
            _log.warning(
                "scores of output %d taken as %s: %s; --scores declares others", answer.output, scores, why
            )
            return msgspec.structs.replace(manifest, answer=msgspec.structs.replace(answer, scores=scores))
    _log.info("%s", describe(answer, ending, declared=options.scores is not None))
    if advice := found.check():
        _log.warning("%s", advice)
    return manifest


def _codebook_data(scratch: Path, options: PrepareOptions, manifest: Manifest) -> Data:
    path = options.codebook_data or options.calibration
    if path is None:
        raise UsageError(
            "--codebook needs public data to learn from", remedy="give --calibration or --codebook-data"
        )
    labels = None if manifest.answer is None else manifest.answer.labels
    named = None if labels is None else read_labels(scratch / labels.path)
    data = open_data(path, manifest.inputs, manifest.preprocess, named)
    least = _CODEBOOK_SAMPLES
    return AugmentedPictures(data, least=least) if isinstance(data, ImageFolder) and len(data) < least else data


def _store_figures(
    bundle: Bundle,
    calibrated: CalibratedBundle | None,
    books: LearnedCodebooks,
    options: PrepareOptions,
    progress: Progress,
) -> None:
    """Measure the agreement with the unsplit model and store it; does nothing without public data."""
    if calibrated is None and books.data is None:
        return
    found = measure_prepared(
        bundle,
        () if calibrated is None else calibrated.taught,
        books,
        options.figure_options,
        unit="samples" if calibrated is None else calibrated.halves.unit,
        progress=progress,
    )
    data = evaluation.DataRecord(name="", sha256="", samples=0, labelled=0)
    evaluation.store(
        bundle,
        evaluation.Evaluation(
            format=evaluation.FORMAT,
            bundle=bundle.identity,
            data=data,
            unprotected_accuracy=None,
            rows=(),
            made_by=f"split-model {__version__}",
            prepared=found,
        ),
    )


def _calibrated(scratch: Path, manifest: Manifest, options: PrepareOptions, progress: Progress) -> CalibratedBundle:
    assert options.calibration is not None
    return calibrate_bundle(
        scratch,
        manifest,
        open_data(options.calibration, manifest.inputs, manifest.preprocess),
        target=options.output,
        options=options.calibration_options,
        trial=options.trial_options,
        progress=progress,
    )

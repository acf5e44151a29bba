"""The command ``split-model``: inspects and cuts models, checks the cuts, and measures releases."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from split_model.arguments import make_parser
from split_model.command_line import run_main
from split_model.errors import UsageError
from split_model.service.terminal_text import columns
from split_model.terminal import ProgressDisplay, show

if TYPE_CHECKING:
    from split_model.prepare.reference import ReferenceCheck
    from split_model.prepare.verify import CutCheck


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the command, return its exit code."""
    commands = {
        "inspect": _inspect,
        "prepare": _prepare,
        "verify": _verify,
        "evaluate": _evaluate,
        "preview": _preview,
        "audit": _audit,
        "report": _report,
    }
    return run_main("split-model", make_parser(commands), argv)


def _inspect(args: argparse.Namespace) -> int:
    from split_model.prepare.drawing import check_plot_path
    from split_model.prepare.inspection import inspect_model, render
    from split_model.prepare.inspection_plot import plot_model
    from split_model.prepare.tflite.shapes import open_model

    if args.plot is not None:
        check_plot_path(args.plot)
    report = inspect_model(open_model(args.model, try_it=False).graph)
    if args.plot is not None:
        plot_model(report, args.plot)
    print(msgspec.json.encode(report).decode() if args.json else render(report))
    return os.EX_OK


def _parse_cuts(text: str) -> int | tuple[int, ...] | None:
    if text == "all":
        return None
    try:
        if text.startswith("at:"):
            return tuple(int(index) for index in text.removeprefix("at:").split(","))
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise UsageError(
            f"--cuts {text}: not a choice of cuts",
            remedy="give a number of cuts, op indices as 'at:12,21', or 'all'",
        )
    return count


def _parse_without(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(index) for index in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f"--without {text}: not a list of cuts", remedy="give op indices, as '4,7'") from None


def _prepare(args: argparse.Namespace) -> int:
    from split_model.prepare.calibrate.allocators import TrialOptions
    from split_model.prepare.calibrate.calibration import CalibrationOptions
    from split_model.prepare.codebook.codebooks import CodebookWish
    from split_model.prepare.own_input import InputWish, parse_numbers, parse_shape
    from split_model.prepare.pipeline import PrepareOptions, prepare
    from split_model.prepare.summary import summarise
    from split_model.privacy import default_bits

    calibration, trial = CalibrationOptions(), TrialOptions()
    if args.epsilon is not None:
        trial = TrialOptions(epsilon=args.epsilon, bits=default_bits(args.epsilon))
        calibration = replace(calibration, epsilon=args.epsilon)
    if args.clip_quantile is not None:
        if not 0.5 < args.clip_quantile <= 1.0:
            raise UsageError(
                f"--clip-quantile {args.clip_quantile}", remedy="give a share of values, over 0.5 and at most 1"
            )
        calibration = replace(calibration, quantile=args.clip_quantile)
    options = PrepareOptions(
        model=args.model,
        output=args.output,
        name=args.name,
        cuts=_parse_cuts(args.cuts),
        without=_parse_without(args.without),
        preprocess=args.preprocess,
        input=InputWish(
            resize=args.resize,
            fit=args.fit,
            pad=args.pad,
            mean=None if args.mean is None else parse_numbers("--mean", args.mean),
            std=None if args.std is None else parse_numbers("--std", args.std),
            channels=args.channels,
            layout=args.layout,
        ),
        input_shape=None if args.input_shape is None else parse_shape(args.input_shape),
        labels=args.labels,
        top_k=args.top_k,
        scores=args.scores,
        labels_output=args.labels_output,
        answer=args.answer,
        calibration=args.calibration,
        calibration_options=calibration,
        trial_options=trial,
        codebooks=tuple(CodebookWish.parse(text) for text in args.codebook),
        codebook_data=args.codebook_data,
        noise_tails=args.noise_tails,
        replace=args.force,
    )
    with ProgressDisplay() as progress:
        bundle = prepare(options, progress)
    show(summarise(bundle))
    return os.EX_OK


def _verify(args: argparse.Namespace) -> int:
    from split_model.prepare.reference import describe
    from split_model.prepare.tflite.tables import printable

    if args.path.is_dir() or not args.path.exists():
        checks, reference, left_out = _verify_bundle(args)
    else:
        from split_model.prepare.verify import verify_all_cuts

        if args.data:
            raise UsageError(
                "--data needs a bundle, which says how pictures become inputs",
                remedy="name a bundle, or leave --data out",
            )
        with ProgressDisplay() as progress:
            checks, reference = verify_all_cuts(args.path, backend=args.backend, progress=progress), None
        left_out = ()
    failed = [check for check in checks if not check.identical]
    if args.json:
        print(msgspec.json.encode({"cuts": checks, "reference": reference}).decode())
    else:
        told = [f"cut {check.index}: {printable(check.message)}" for check in failed]
        told += left_out
        told.append(f"{len(checks) - len(failed)} of {len(checks)} cuts are bit-identical to the whole model")
        if reference is not None:
            told.append(describe(reference))
        show(told)
    return os.EX_DATAERR if failed or (reference is not None and not reference.within) else os.EX_OK


def _verify_bundle(
    args: argparse.Namespace,
) -> tuple[tuple[CutCheck, ...], ReferenceCheck | None, tuple[str, ...]]:
    from split_model.bundle import Bundle
    from split_model.features.data import open_data
    from split_model.prepare.reference import check_reference
    from split_model.prepare.summary import left_out_lines
    from split_model.prepare.verify import verify_all_cuts, verify_bundle

    bundle = Bundle.open(args.path, check_files=False)
    manifest = bundle.manifest
    data = open_data(args.data, manifest.inputs, manifest.preprocess) if args.data else ()
    inputs = [sample.tensors for sample in data]
    with ProgressDisplay() as progress:
        checks = verify_bundle(bundle, backend=args.backend, inputs=inputs, progress=progress)
        reference = check_reference(bundle, backend=args.backend)
        if args.all_cuts:
            model = bundle.path(manifest.model)
            sliced = verify_all_cuts(
                model, backend=args.backend, inputs=inputs, preprocess=manifest.preprocess, progress=progress
            )
            # What the bundle holds counts as well as what slicing gives: a cut that fails either is listed.
            checks = (*(check for check in checks if not check.identical), *sliced)
    return checks, reference, left_out_lines(manifest)


def _evaluate(args: argparse.Namespace) -> int:
    from split_model.bundle import Bundle, evaluation
    from split_model.prepare.drawing import check_plot_path
    from split_model.prepare.evaluate.measure import evaluate
    from split_model.prepare.evaluate.plot import plot_evaluation
    from split_model.prepare.evaluate.text import render

    if args.plot is not None:
        check_plot_path(args.plot)
    bundle = Bundle.open(args.bundle)
    with ProgressDisplay() as progress:
        found = evaluate(
            bundle,
            args.data,
            cuts=args.cut,
            epsilons=args.epsilon or ([] if args.whole_input_epsilon else [32.0, 16.0, 8.0, 4.0]),
            whole_input_epsilons=args.whole_input_epsilon,
            allocations=args.allocation or ["auto"],
            bits=args.bits,
            draws=args.draws,
            entropy=os.urandom,
            progress=progress,
        )
    print(msgspec.json.encode(found).decode() if args.json else render(found, columns(sys.stdout)))
    if args.plot is not None:
        plot_evaluation(found, args.plot, title=bundle.manifest.name)
    if args.store:
        kept = evaluation.store(bundle, found)
        print(f"{evaluation.path_of(bundle)}: {len(kept.rows)} measurements", file=sys.stderr)
    return os.EX_OK


def _preview(args: argparse.Namespace) -> int:
    from split_model.bundle import Bundle
    from split_model.prepare.drawing import check_plot_path
    from split_model.prepare.own_input import parse_numbers
    from split_model.prepare.preview import preview
    from split_model.prepare.preview_drawing import draw

    check_plot_path(args.output)
    epsilons = parse_numbers("--epsilon", args.epsilon)
    found = preview(Bundle.open(args.bundle), args.picture, epsilons=epsilons, entropy=os.urandom)
    draw(found, args.output, title=args.picture.name)
    print(args.output)
    return os.EX_OK


def _audit(args: argparse.Namespace) -> int:
    from split_model.audit.command import audit

    with ProgressDisplay() as progress:
        return audit(args, progress)


def _report(args: argparse.Namespace) -> int:
    from split_model.report import write_report
    from split_model.report.fetch import fetch_records

    if (args.run is None) == (args.board is None):
        raise UsageError("give either RUN.jsonl or --from", remedy="see 'split-model report --help'")
    if args.board is None and args.last is not None:
        raise UsageError("--last needs --from", remedy="add --from, or leave --last out")
    with tempfile.TemporaryDirectory(prefix="report-") as scratch:
        run = args.run
        if args.board is not None:
            run = Path(scratch) / f"{args.board.rpartition('@')[2].replace('/', '_')}.jsonl"
            options = () if args.ssh_config is None else ("-F", str(args.ssh_config))
            fetch_records(args.board, run, last=args.last, ssh=("ssh", *options))
        write_report(run, args.output, args.pictures)
    print(args.output)
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())

"""The command ``split-model``: look into a model, cut it, check the cuts, see what a release costs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import msgspec

from split_model import __version__
from split_model.command_line import Parser, run_main
from split_model.errors import UsageError
from split_model.interpreter import BACKENDS
from split_model.privacy import AllocationWish

if TYPE_CHECKING:
    from split_model.prepare.reference import ReferenceCheck
    from split_model.prepare.verify import CutCheck


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the command, return its exit code."""
    return run_main("split-model", _parser(), argv)


def _parser() -> Parser:
    parser = Parser(
        prog="split-model",
        description="Cut any .tflite model into heads for a board and tails for a server.",
        epilog="Results go to standard output, progress and errors to standard error.",
    )
    parser.add_argument("--version", action="version", version=f"split-model {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _inspect_command(commands)
    _prepare_command(commands)
    _verify_command(commands)
    _evaluate_command(commands)
    _report_command(commands)
    return parser


def _inspect_command(commands: argparse._SubParsersAction[Parser]) -> None:
    inspect = commands.add_parser("inspect", help="show a model's ops and every place it can be cut")
    inspect.add_argument("model", type=Path, metavar="MODEL", help=".tflite file")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.add_argument(
        "--plot", type=Path, metavar="FILE.png|svg", help="draw compute against bytes along the graph"
    )
    inspect.set_defaults(func=_inspect)


def _prepare_command(commands: argparse._SubParsersAction[Parser]) -> None:
    prepare = commands.add_parser(
        "prepare",
        help="make a bundle from a model",
        description="Cut a model, learn clip ranges, ranks and weights from PUBLIC data, and write a bundle.",
        epilog="Without --calibration nothing can be released from the bundle but unprotected features.\n"
        "An interrupted calibration is taken up by the next run with the same inputs.",
    )
    prepare.add_argument("model", type=Path, metavar="MODEL", help=".tflite file")
    prepare.add_argument("-o", "--output", type=Path, required=True, metavar="BUNDLE", help="folder to make")
    prepare.add_argument("--name", help="the bundle's name (default: the model's file name)")
    prepare.add_argument(
        "--cuts",
        default="8",
        metavar="N|LIST|all",
        help="how many cuts to choose (default 8), their op indices as 'at:12,21', or 'all'",
    )
    prepare.add_argument("--preprocess", type=Path, metavar="JSON", help="how pictures become the model's input")
    prepare.add_argument("--labels", type=Path, metavar="FILE", help="class names, one a line")
    prepare.add_argument("--top-k", type=int, default=5, metavar="K", help="classes in an answer (default 5)")
    prepare.add_argument("--answer", type=Path, metavar="JSON", help="name, shape and meaning of each output")
    prepare.add_argument(
        "--calibration", type=Path, metavar="DATA", help="public data: a folder of pictures or an .npz"
    )
    prepare.add_argument("--clip-quantile", type=float, metavar="Q", help="share of values inside the clip range")
    prepare.add_argument(
        "--epsilon",
        type=float,
        metavar="E",
        help="the mean per-value epsilon you mean to release with: weights and allocations are measured at it (16)",
    )
    prepare.add_argument(
        "--codebook",
        action="append",
        default=[],
        metavar="CUT:WORDS[:GROUPS]",
        help="learn a codebook at a cut, for the strict release; may be repeated",
    )
    prepare.add_argument(
        "--codebook-data",
        type=Path,
        metavar="DATA",
        help="public data to learn codebooks from, all of it, with labels or without (default: --calibration)",
    )
    prepare.add_argument(
        "--noise-tails", type=Path, metavar="JSON", help="list of tails trained on noised features, to take in"
    )
    prepare.add_argument("--force", action="store_true", help="replace a bundle that is there already")
    prepare.set_defaults(func=_prepare)


def _verify_command(commands: argparse._SubParsersAction[Parser]) -> None:
    verify = commands.add_parser(
        "verify",
        help="check that head and tail together equal the whole model, bit for bit",
        description="For a bundle: every file's hash, every offered cut, and how far the whole model is from\n"
        "what it answered where the bundle was made. For a .tflite: every legal cut.",
    )
    verify.add_argument("path", type=Path, metavar="BUNDLE|MODEL", help="bundle folder, or .tflite file")
    verify.add_argument("--all-cuts", action="store_true", help="for a bundle: every legal cut of its model")
    verify.add_argument("--data", type=Path, metavar="DATA", help="check on this data too")
    verify.add_argument("--backend", choices=tuple(BACKENDS), help="TFLite backend (default: the first installed)")
    verify.add_argument("--json", action="store_true", help="print JSON")
    verify.set_defaults(func=_verify)


def _evaluate_command(commands: argparse._SubParsersAction[Parser]) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="measure what a release costs in agreement and accuracy",
        description="Run data through head, release and tail; compare with the unprotected whole model.",
    )
    evaluate.add_argument("bundle", type=Path, metavar="BUNDLE")
    evaluate.add_argument("--data", type=Path, required=True, metavar="DATA", help="labelled or not")
    evaluate.add_argument("--cut", type=int, action="append", metavar="N", help="only this cut; may be repeated")
    evaluate.add_argument(
        "--epsilon", type=float, action="append", metavar="E", help="per-value epsilon; may be repeated (32 16 8 4)"
    )
    evaluate.add_argument(
        "--whole-input-epsilon",
        type=float,
        action="append",
        default=[],
        metavar="E",
        help="whole-input epsilon, for every codebook of the bundle; may be repeated",
    )
    evaluate.add_argument(
        "--allocation", action="append", choices=get_args(AllocationWish), help="may be repeated (auto)"
    )
    evaluate.add_argument("--bits", type=int, default=8, choices=range(4, 9), metavar="4..8")
    evaluate.add_argument("--draws", type=int, default=3, metavar="N", help="noise draws a sample (default 3)")
    evaluate.add_argument(
        "--store",
        action="store_true",
        help="keep the figures in the bundle, for the device's planner.accuracy_floor",
    )
    evaluate.add_argument("--plot", type=Path, metavar="FILE.png|svg", help="draw a panel a cut")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.set_defaults(func=_evaluate)


def _report_command(commands: argparse._SubParsersAction[Parser]) -> None:
    report = commands.add_parser("report", help="draw a run as one self-contained page")
    report.add_argument("run", type=Path, metavar="RUN.jsonl")
    report.add_argument("-o", "--output", type=Path, required=True, metavar="report.html")
    report.set_defaults(func=_report)


class _Progress:
    """One line on a terminal, rewritten; on anything else a line every two seconds."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._said_s = float("-inf")

    def __call__(self, what: str, done: int, total: int) -> None:
        now_s = time.monotonic()
        if done < total and now_s - self._said_s < (0.1 if self._terminal else 2.0):
            return
        self._said_s = now_s
        start, end = ("\r\x1b[K", "\n" if done == total else "") if self._terminal else ("", "\n")
        print(f"{start}{what} {done}/{total}", end=end, file=sys.stderr, flush=True)


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
        raise UsageError(f"--cuts {text}: give a number of cuts, op indices as 'at:12,21', or 'all'")
    return count


def _prepare(args: argparse.Namespace) -> int:
    from split_model.prepare.calibrate.allocators import TrialOptions
    from split_model.prepare.calibrate.calibration import CalibrationOptions
    from split_model.prepare.codebook.codebooks import CodebookWish
    from split_model.prepare.pipeline import PrepareOptions, prepare
    from split_model.prepare.summary import summarise

    calibration, trial = CalibrationOptions(), TrialOptions()
    if args.epsilon is not None:
        trial = TrialOptions(epsilon=args.epsilon)
        calibration = replace(calibration, epsilon=args.epsilon)
    if args.clip_quantile is not None:
        if not 0.5 < args.clip_quantile <= 1.0:
            raise UsageError(f"--clip-quantile {args.clip_quantile}: a share of values, over 0.5 and at most 1")
        calibration = replace(calibration, quantile=args.clip_quantile)
    options = PrepareOptions(
        model=args.model,
        output=args.output,
        name=args.name,
        cuts=_parse_cuts(args.cuts),
        preprocess=args.preprocess,
        labels=args.labels,
        top_k=args.top_k,
        answer=args.answer,
        calibration=args.calibration,
        calibration_options=calibration,
        trial_options=trial,
        codebooks=tuple(CodebookWish.parse(text) for text in args.codebook),
        codebook_data=args.codebook_data,
        noise_tails=args.noise_tails,
        replace=args.force,
    )
    print(summarise(prepare(options, _Progress())))
    return os.EX_OK


def _verify(args: argparse.Namespace) -> int:
    from split_model.prepare.reference import describe
    from split_model.prepare.tflite.tables import printable

    if args.path.is_dir() or not args.path.exists():
        checks, reference = _verify_bundle(args)
    else:
        from split_model.prepare.verify import verify_all_cuts

        if args.data:
            raise UsageError("--data needs a bundle, which says how pictures become inputs")
        checks, reference = verify_all_cuts(args.path, backend=args.backend, progress=_Progress()), None
    failed = [check for check in checks if not check.identical]
    if args.json:
        print(msgspec.json.encode({"cuts": checks, "reference": reference}).decode())
    else:
        for check in failed:
            print(f"cut {check.index}: {printable(check.message)}")
        print(f"{len(checks) - len(failed)} of {len(checks)} cuts are bit-identical to the whole model")
        if reference is not None:
            print(describe(reference))
    return os.EX_DATAERR if failed or (reference is not None and not reference.within) else os.EX_OK


def _verify_bundle(args: argparse.Namespace) -> tuple[tuple[CutCheck, ...], ReferenceCheck | None]:
    from split_model.bundle import Bundle
    from split_model.features.data import open_data
    from split_model.prepare.reference import check_reference
    from split_model.prepare.verify import verify_all_cuts, verify_bundle

    progress = _Progress()
    bundle = Bundle.open(args.path, check_files=False)
    manifest = bundle.manifest
    data = open_data(args.data, manifest.inputs, manifest.preprocess) if args.data else ()
    inputs = [sample.tensors for sample in data]
    checks = verify_bundle(bundle, backend=args.backend, inputs=inputs, progress=progress)
    reference = check_reference(bundle, backend=args.backend)
    if args.all_cuts:
        model = bundle.path(manifest.model)
        sliced = verify_all_cuts(
            model, backend=args.backend, inputs=inputs, preprocess=manifest.preprocess, progress=progress
        )
        # What the bundle holds counts as well as what slicing gives: a cut that fails either is listed.
        checks = (*(check for check in checks if not check.identical), *sliced)
    return checks, reference


def _evaluate(args: argparse.Namespace) -> int:
    from split_model.bundle import Bundle, evaluation
    from split_model.prepare.drawing import check_plot_path
    from split_model.prepare.evaluate.measure import evaluate
    from split_model.prepare.evaluate.plot import plot_evaluation
    from split_model.prepare.evaluate.text import render

    if args.plot is not None:
        check_plot_path(args.plot)
    bundle = Bundle.open(args.bundle)
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
        progress=_Progress(),
    )
    print(msgspec.json.encode(found).decode() if args.json else render(found))
    if args.plot is not None:
        plot_evaluation(found, args.plot, title=bundle.manifest.name)
    if args.store:
        kept = evaluation.store(bundle, found)
        print(f"{evaluation.path_of(bundle)}: {len(kept.rows)} measurements", file=sys.stderr)
    return os.EX_OK


def _report(args: argparse.Namespace) -> int:
    from split_model.report import write_report

    write_report(args.run, args.output)
    print(args.output)
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())

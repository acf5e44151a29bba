"""The arguments of the command ``split-model``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

from split_model import __version__
from split_model.bundle.records import Scores
from split_model.command_line import Parser
from split_model.interpreter import BACKENDS
from split_model.privacy import AllocationWish


def make_parser(run: Mapping[str, Callable[[argparse.Namespace], int]]) -> Parser:
    """Make the parser.

    Args:
        run: The function of each command by its name; it returns the exit code.

    Returns:
        A parser whose result has the command's function as ``func``.

    """
    parser = Parser(
        prog="split-model",
        description="Cut any .tflite model into heads for a board and tails for a server.",
        epilog="Results go to standard output, progress and errors to standard error.",
    )
    parser.add_argument("--version", action="version", version=f"split-model {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _inspect_command(commands).set_defaults(func=run["inspect"])
    _prepare_command(commands).set_defaults(func=run["prepare"])
    _verify_command(commands).set_defaults(func=run["verify"])
    _evaluate_command(commands).set_defaults(func=run["evaluate"])
    _preview_command(commands).set_defaults(func=run["preview"])
    _audit_command(commands).set_defaults(func=run["audit"])
    _report_command(commands).set_defaults(func=run["report"])
    return parser


def _inspect_command(commands: argparse._SubParsersAction[Parser]) -> Parser:
    inspect = commands.add_parser("inspect", help="show a model's ops and every place it can be cut")
    inspect.add_argument("model", type=Path, metavar="MODEL", help=".tflite file")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.add_argument(
        "--plot", type=Path, metavar="FILE.png|svg", help="draw compute against bytes along the graph"
    )
    return inspect


def _prepare_command(commands: argparse._SubParsersAction[Parser]) -> Parser:
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
        help="number of cuts to choose (default 8), their op indices as 'at:12,21', or 'all'",
    )
    prepare.add_argument("--without", default="", metavar="LIST", help="op indices of cuts to leave out, as '4,7'")
    _input_flags(prepare)
    prepare.add_argument("--labels", type=Path, metavar="FILE", help="class names, one a line")
    prepare.add_argument(
        "--scores",
        choices=get_args(Scores),
        metavar="KIND",
        help=f"what the labelled output's values are: {', '.join(get_args(Scores))} (default: by the graph's end)",
    )
    prepare.add_argument(
        "--labels-output",
        type=int,
        metavar="N",
        help="the output of the labelled classes (default: the first that fits)",
    )
    prepare.add_argument("--top-k", type=int, default=5, metavar="K", help="classes in an answer (default: 5)")
    prepare.add_argument(
        "--answer",
        type=Path,
        metavar="KIND|JSON",
        help="kind of the outputs: detections, landmarks, map or vector, a file of one of them with its keys, "
        "or a file with name, shape and meaning of each output (docs/own-model.md)",
    )
    prepare.add_argument(
        "--calibration", type=Path, metavar="DATA", help="public data: a folder of pictures or an .npz"
    )
    prepare.add_argument(
        "--clip-quantile",
        type=float,
        metavar="Q",
        help="values at or below the upper clip bound, as a share (default: by measurement, at each cut)",
    )
    prepare.add_argument(
        "--epsilon",
        type=float,
        metavar="E",
        help="mean per-value epsilon of your release; weights and allocations are measured with it (default: 16)",
    )
    prepare.add_argument(
        "--codebook",
        action="append",
        default=[],
        metavar="CUT:CODEWORDS[:GROUPS]",
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
    prepare.add_argument("--force", action="store_true", help="replace an existing bundle")
    return prepare


def _input_flags(prepare: Parser) -> None:
    """How pictures become the model's input."""
    group = prepare.add_argument_group(
        "how pictures become the model's input (default: as far as the model says it)"
    )
    group.add_argument("--preprocess", type=Path, metavar="JSON", help="a file of these; flags win over it")
    group.add_argument("--resize", type=int, metavar="N", help="scale the shorter side to N pixels, with --crop")
    fit = group.add_mutually_exclusive_group()
    fit.add_argument("--crop", dest="fit", action="store_const", const="crop", help="cut out the centre (default)")
    whole = "scale the whole picture to fit, and fill the borders with the grey of --pad"
    fit.add_argument("--letterbox", dest="fit", action="store_const", const="letterbox", help=whole)
    fit.add_argument("--stretch", dest="fit", action="store_const", const="stretch", help="change the proportions")
    group.add_argument("--pad", type=int, choices=range(256), metavar="0..255", help="grey of borders (default: 0)")
    group.add_argument("--mean", metavar="M[,M,M]", help="subtracted from pixels of 0..255")
    group.add_argument("--std", metavar="S[,S,S]", help="the divisor after that; key 'scale'")
    group.add_argument("--channels", choices=("rgb", "bgr", "grey"), help="key 'colour'")
    group.add_argument("--layout", choices=("nhwc", "nchw"), help="channels last, or first as PyTorch has them")
    group.add_argument("--input-shape", metavar="1,H,W,C", help="needed if the model's input has open sides")


def _verify_command(commands: argparse._SubParsersAction[Parser]) -> Parser:
    verify = commands.add_parser(
        "verify",
        help="check that head and tail together equal the whole model, bit for bit",
        description="For a bundle: every file's hash, every offered cut, and how far the whole model's answers\n"
        "are from those stored when the bundle was made. For a .tflite: every legal cut.",
    )
    verify.add_argument("path", type=Path, metavar="BUNDLE|MODEL", help="bundle folder, or .tflite file")
    verify.add_argument("--all-cuts", action="store_true", help="for a bundle: every legal cut of its model")
    verify.add_argument("--data", type=Path, metavar="DATA", help="check on this data too")
    verify.add_argument("--backend", choices=tuple(BACKENDS), help="TFLite backend (default: the first installed)")
    verify.add_argument("--json", action="store_true", help="print JSON")
    return verify


def _evaluate_command(commands: argparse._SubParsersAction[Parser]) -> Parser:
    evaluate = commands.add_parser(
        "evaluate",
        help="measure what a release costs in agreement and accuracy",
        description="Run data through head, release and tail; compare with the unprotected whole model.",
    )
    evaluate.add_argument("bundle", type=Path, metavar="BUNDLE")
    evaluate.add_argument("--data", type=Path, required=True, metavar="DATA", help="samples, labelled or not")
    evaluate.add_argument("--cut", type=int, action="append", metavar="N", help="only this cut; may be repeated")
    several = "per-value epsilon; repeat the option for several (default: 32 16 8 4)"
    evaluate.add_argument("--epsilon", type=float, action="append", metavar="E", help=several)
    evaluate.add_argument(
        "--whole-input-epsilon",
        type=float,
        action="append",
        default=[],
        metavar="E",
        help="whole-input epsilon, for every codebook of the bundle; may be repeated",
    )
    evaluate.add_argument(
        "--allocation", action="append", choices=get_args(AllocationWish), help="may be repeated (default: auto)"
    )
    evaluate.add_argument("--bits", type=int, default=8, choices=range(4, 9), metavar="4..8")
    evaluate.add_argument("--draws", type=int, default=3, metavar="N", help="noise draws per sample (default: 3)")
    evaluate.add_argument(
        "--store",
        action="store_true",
        help="store the figures in the bundle, for the device's planner.accuracy_floor",
    )
    evaluate.add_argument("--plot", type=Path, metavar="FILE.png|svg", help="draw one panel per cut")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    return evaluate


def _preview_command(commands: argparse._SubParsersAction[Parser]) -> Parser:
    preview = commands.add_parser(
        "preview", help="draw one picture: the model's input, the released features, the answers"
    )
    preview.add_argument("bundle", type=Path, metavar="BUNDLE")
    preview.add_argument("picture", type=Path, metavar="PICTURE")
    preview.add_argument("--epsilon", default="16,8,4", metavar="E[,E…]", help="mean per value (default: 16,8,4)")
    preview.add_argument("-o", "--output", type=Path, default=Path("preview.png"), metavar="FILE.png|svg")
    return preview


def _audit_command(commands: argparse._SubParsersAction[Parser]) -> Parser:
    audit = commands.add_parser(
        "audit",
        help="attack the releases: what could a server make of what leaves?",
        description="Attack a bundle's releases with your own pictures, as somebody who knows the bundle, the "
        "mechanism and other pictures, and say in words what a server could see. Needs the extra 'audit'.",
        epilog="An interrupted audit goes on where it was. docs/audit.md explains the attackers and the verdicts.",
    )
    audit.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by prepare")
    audit.add_argument("--data", type=Path, required=True, metavar="DATA", help="pictures: some are attacked")
    audit.add_argument(
        "-o", "--output", type=_without_ending, required=True, metavar="REPORT", help=".html and .json"
    )
    audit.add_argument(
        "--public", type=Path, metavar="DATA", help="other pictures to learn from (default: the rest of --data)"
    )
    audit.add_argument(
        "--quick", action="store_true", help="minutes in place of an hour; real attackers have longer"
    )
    audit.add_argument("--cuts", type=_numbers, metavar="4,7", help="only these cuts (default: all)")
    audit.add_argument(
        "--epsilon",
        type=_reals,
        default=[4.0, 8.0, 16.0],
        metavar="4,8,16",
        help="per-value epsilons of the noise release",
    )
    audit.add_argument(
        "--allocation",
        type=lambda text: text.split(","),
        default=["auto"],
        metavar="auto",
        help="how noise is shared: auto, uniform, rank, optimal, or several, as uniform,rank",
    )
    audit.add_argument("--bits", type=int, metavar="N", help="bits of the noise (default: a config's default)")
    audit.add_argument(
        "--codebook-epsilon", type=_reals, default=[8.0], metavar="8", help="whole-input epsilons of the codebooks"
    )
    audit.add_argument("--victims", type=int, metavar="N", help="pictures to attack (default: 16; 6 with --quick)")
    training = "seconds to train each network, about (default: 240; 10 with --quick)"
    audit.add_argument("--network-seconds", type=float, metavar="S", help=training)
    audit.add_argument("--steps", type=int, metavar="N", help="white-box steps (default: 1000; 150 with --quick)")
    people = "pictures in a sub-folder for each person: tests whether a release shows who it is"
    audit.add_argument("--people", type=Path, metavar="DATA", help=people)
    audit.add_argument(
        "--store",
        action="store_true",
        help="store verdicts and networks in the bundle, for planner.reveal_at_most and preview",
    )
    audit.add_argument("--json", action="store_true", help="print the JSON")
    return audit


def _without_ending(text: str) -> Path:
    path = Path(text)
    return path.with_suffix("") if path.suffix in (".html", ".json") else path


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _reals(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _report_command(commands: argparse._SubParsersAction[Parser]) -> Parser:
    report = commands.add_parser(
        "report",
        help="draw a run as one self-contained page",
        description="Draw the log of a demonstration, the answers of a device (its JSON lines), or a benchmark.",
    )
    report.add_argument("run", type=Path, nargs="?", metavar="RUN.jsonl")
    report.add_argument("--pictures", type=Path, metavar="DIR", help="where the pictures of a device's answers lie")
    board = "fetch the stored answers of a board over SSH, instead of RUN.jsonl"
    report.add_argument("--from", dest="board", metavar="[USER@]HOST", help=board)
    report.add_argument("--last", metavar="TIME", help="with --from: the last 30m, 24h or 7d (default: all it has)")
    report.add_argument("-F", dest="ssh_config", type=Path, metavar="FILE", help="with --from: as ssh -F")
    report.add_argument("-o", "--output", type=Path, required=True, metavar="report.html")
    return report

"""The command ``edge-runtime``."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge_runtime import commands
from split_model import __version__
from split_model.command_line import Parser, run_main

Adding = argparse._SubParsersAction  # noqa: SLF001  argparse has no other name for it

_FIRST_TIME = """\
first time on a board:
  edge-runtime keys make             prints KEY; on the server: cloud-server devices allow NAME 'KEY'
  edge-runtime config check          the config, and everything it names
  edge-runtime bench                 every cut on this board, the link, where to cut
  edge-runtime doctor                faults of this board, and their remedies
  edge-runtime run > answers.jsonl   or: systemctl enable --now edge-runtime

Answers and tables go to standard output, the log to standard error. Exit codes: 64 usage, 65 bad bundle or data,
66 no such file, 69 server or program not reached, 73 cannot write, 77 not allowed, 78 config.
"""
_STATUS = """\
examples:
  edge-runtime status                       the service's, by its config in /etc/edge-runtime
  edge-runtime status --watch               the same every second, until Ctrl-C
  edge-runtime status --json | jq .link     for programs: also 'condition' and every counter
"""
_DOCTOR = """\
examples:
  sudo edge-runtime doctor                  root reads the key, then becomes the service's user
  edge-runtime doctor --no-server           the board alone
  edge-runtime doctor --json | jq '.[] | select(.level != "ok")'
"""
_BENCH = """\
examples:
  edge-runtime bench                        the board, and the link if the server is there
  edge-runtime bench --no-link --runs 100   the board alone, more exactly
  edge-runtime bench --json > bench.json    for 'split-model report bench.json'
"""
_ROTATION = """\
to change the key without an outage:
  sudo edge-runtime keys rotate                   on the board: makes the next key, prints its public half
  sudo cloud-server devices allow porch-2 'KEY'   on the server, with the printed key
  sudo edge-runtime keys switch                   on the board: tries it at the server, then switches to it
  sudo systemctl restart edge-runtime
  sudo cloud-server devices revoke porch          on the server: the old key is refused from now on
"""
_CONFIG = """\
conf.d/*.toml beside the config file is read after it, in the order of the names; later files win, key by key.

examples:
  edge-runtime config show                  every key, its value, and the file that it is from
  edge-runtime config check -c new.toml     before it is put in place
"""
_RUN = (
    "Answer every frame of the sources, here or with the server's help; one JSON line per frame (kind: "
    "frame), and one per move of the split point (kind: decision). SIGTERM ends it after the frames under "
    "way, SIGHUP reads the config again."
)
_STATUS_TELLS = (
    "Show the state of the running program: split point, link, frames, load, ledger. Exit code 0 "
    "while it can answer frames, 69 where it cannot or does not run."
)
_DOCTOR_TELLS = (
    "Look at config, bundle, backend, sources, key, disk, ledger, clock, heat, power, memory, the running "
    "program and the server, one line each: ok, WARN or FAIL, with what to do. The server is tried as the "
    "program would, with this device's key. Exit code 0 unless something fails, then that of the first."
)
_LEDGER_TELLS = (
    "Read the privacy ledger: spent and left, in whole-input epsilon, and when the budget will be spent "
    "at this rate. Does not disturb a running device."
)
_RECORDS_TELLS = (
    "Print the records of the first sink of kind 'jsonl': from its file, or from the service's journal where it "
    "writes to standard output. 'split-model report --from' draws them on a workstation."
)
_BENCH_TELLS = (
    "Time every head, its release and the whole model on this board, and the link to the server if it can "
    "be reached; say which split is best at which uplink. 'run' uses the figures."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the command, return its exit code."""
    return run_main("edge-runtime", make_parser(), argv)


def make_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="edge-runtime",
        description="Run the head of a model on this board and its tail on a server; the split follows the link.",
        epilog=_FIRST_TIME,
    )
    parser.add_argument("--version", action="version", version=f"edge-runtime {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    adding = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add(
        adding,
        "run",
        commands.run,
        "answer frames from the configured sources",
        description=_RUN,
    )
    _add_looking(adding)
    _add_bench(adding)
    _add_keys(adding)
    _add_config(adding)
    return parser


def _add_looking(adding: Adding[Parser]) -> None:
    status = _add(
        adding,
        "status",
        commands.status,
        "state of the running program: split point, link, frames, ledger",
        description=_STATUS_TELLS,
        epilog=_STATUS,
    )
    status.add_argument("--json", action="store_true", help="print JSON, one line")
    again = "repeat until Ctrl-C (default: every %(const)g s)"
    status.add_argument("--watch", type=_seconds, nargs="?", const=1.0, metavar="SECONDS", help=again)
    doctor = _add(
        adding,
        "doctor",
        commands.doctor,
        "find faults of this board, and their remedies",
        description=_DOCTOR_TELLS,
        epilog=_DOCTOR,
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.add_argument("--no-server", action="store_true", help="do not use the network")
    ledger = _add(
        adding,
        "ledger",
        commands.ledger,
        "privacy budget: spent and left",
        description=_LEDGER_TELLS,
    )
    ledger.add_argument("--json", action="store_true", help="print JSON")
    records = _add(
        adding,
        "records",
        commands.records,
        "the stored answers, as JSON lines",
        description=_RECORDS_TELLS,
    )
    records.add_argument("--last", metavar="TIME", help="the last 30m, 24h or 7d (default: all stored ones)")


def _add_bench(adding: Adding[Parser]) -> None:
    bench = _add(
        adding,
        "bench",
        commands.bench,
        "measure every offered cut on this board, and the link; recommend where to cut",
        description=_BENCH_TELLS,
        epilog=_BENCH,
    )
    bench.add_argument("--json", action="store_true", help="print JSON")
    bench.add_argument("--runs", type=_count, default=30, metavar="N", help="runs per cut (default: %(default)s)")
    link = bench.add_mutually_exclusive_group()
    link.add_argument("--server", action="store_true", help="measure the link; an error if it cannot be reached")
    link.add_argument("--no-link", action="store_true", help="measure the board only")
    bench.add_argument("--power-meter", metavar="DEVICE", help="serial meter that prints its watts line by line")
    bench.add_argument(
        "--power-baud",
        type=_count,
        default=115200,
        metavar="N",
        help="baud rate of the power meter (default: %(default)s)",
    )


def _add_keys(adding: Adding[Parser]) -> None:
    what = "make, show or change this device's CURVE keys"
    keys = adding.add_parser(
        "keys",
        help=what,
        description="The secret key never leaves this board; servers are told the public one.",
        epilog=_ROTATION,
    )
    actions = keys.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add(actions, "make", commands.keys_make, "make a key pair where the config says; never overwrites one")
    _add(actions, "show", commands.keys_show, "print the public key, for the server's allow-list")
    text = "make the next key beside this one, and print its public half"
    _add(actions, "rotate", commands.keys_rotate, text, epilog=_ROTATION)
    text = "switch to the next key, once the server accepts it"
    switch = _add(actions, "switch", commands.keys_switch, text, epilog=_ROTATION)
    switch.add_argument("--untried", action="store_true", help="do not ask the server first")


def _add_config(adding: Adding[Parser]) -> None:
    config = adding.add_parser("config", help="check or show the config file", epilog=_CONFIG)
    actions = config.add_subparsers(title="actions", metavar="ACTION", required=True)
    check = _add(actions, "check", commands.config_check, "check the file and everything it names", epilog=_CONFIG)
    connect = "also look up network cameras, and connect to them"
    check.add_argument("--connect", action="store_true", help=connect)
    check.add_argument(
        "--without-key", action="store_true", help="do not read the secret key (a reload does not read it either)"
    )
    reload = "also refuse changes that need a restart of the running program"
    check.add_argument("--reload", action="store_true", help=reload)
    text = "print every key with its effective value and origin"
    shown = _add(actions, "show", commands.config_show, text, epilog=_CONFIG)
    shown.add_argument("--json", action="store_true", help="print JSON")


def _add(
    adding: Adding[Parser],
    name: str,
    func: Callable[[argparse.Namespace], int],
    text: str,
    *,
    description: str = "",
    epilog: str = "",
) -> Parser:
    description = description or f"{text[:1].upper()}{text[1:]}."
    options: dict[str, Any] = {"epilog": epilog} if epilog else {}
    parser = adding.add_parser(name, help=text, description=textwrap.fill(description, 100), **options)
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        default=Path("/etc/edge-runtime/config.toml"),
        metavar="FILE",
        help="config file (default: %(default)s)",
    )
    parser.set_defaults(func=func)
    return parser


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a number of one or more")
    return count


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text}: give seconds from 0.1 to 3600")
    return seconds


if __name__ == "__main__":
    sys.exit(main())

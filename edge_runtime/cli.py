"""The command ``edge-runtime``."""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from split_model import __version__
from split_model.command_line import Parser, run_main

if TYPE_CHECKING:
    from edge_runtime.config import Config


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the command, return its exit code."""
    return run_main("edge-runtime", _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="edge-runtime",
        description="Run the head of a model on this board and its tail on a server; the split follows the link.",
        epilog="Answers and tables go to standard output, the log to standard error.",
    )
    parser.add_argument("--version", action="version", version=f"edge-runtime {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="answer frames from the configured source",
        description="Answer every frame of the source, here or with the server's help; one JSON line a frame "
        "(kind: frame), and one where the split point moves (kind: decision).",
    )
    _config_option(run)
    run.set_defaults(func=_run)

    status = commands.add_parser(
        "status",
        help="how the running program is: split point, link, frames, ledger",
        description="Show what the running program tells of itself: split point, link, frames, load, ledger. "
        "Exit code 0 while it can answer frames, 69 where it cannot or does not run.",
        epilog="examples:\n"
        "  edge-runtime status                       the service's, by its config in /etc/edge-runtime\n"
        "  edge-runtime status --watch               the same every second, until Ctrl-C\n"
        "  edge-runtime status --json | jq .link     for programs: also 'condition' and every counter",
    )
    _config_option(status)
    status.add_argument("--json", action="store_true", help="print JSON, one line")
    status.add_argument(
        "--watch",
        type=_seconds,
        nargs="?",
        const=1.0,
        metavar="SECONDS",
        help="again and again (default: %(const)g)",
    )
    status.set_defaults(func=_status)

    doctor = commands.add_parser(
        "doctor",
        help="what is not well on this board, and what to do about it",
        description="Look at config, bundle, backend, sources, key, disk, ledger, clock, heat, power, memory, the "
        "running program and the server, one line each: ok, WARN or FAIL, with what to do. The server is tried as "
        "the program would, with this device's key. Exit code 0 unless something fails, then that of the first.",
        epilog="examples:\n"
        "  sudo edge-runtime doctor                  as root, since the key is root's\n"
        "  edge-runtime doctor --no-server           the board alone\n"
        "  edge-runtime doctor --json | jq '.[] | select(.level != \"ok\")'",
    )
    _config_option(doctor)
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.add_argument("--no-server", action="store_true", help="leave the network alone")
    doctor.set_defaults(func=_doctor)

    bench = commands.add_parser(
        "bench",
        help="measure every offered cut on this board, and the link; recommend where to cut",
        description="Time every head, its release and the whole model on this board, and the link to the server "
        "if it can be reached; say which split is best at which uplink. 'run' uses the figures.",
    )
    _config_option(bench)
    bench.add_argument("--json", action="store_true", help="print JSON")
    bench.add_argument("--runs", type=_count, default=30, metavar="N", help="runs a cut (default: %(default)s)")
    link = bench.add_mutually_exclusive_group()
    link.add_argument("--server", action="store_true", help="measure the link; an error if it cannot be reached")
    link.add_argument("--no-link", action="store_true", help="measure the board only")
    bench.add_argument("--power-meter", metavar="DEVICE", help="serial meter that prints its watts line by line")
    bench.add_argument("--power-baud", type=_count, default=115200, metavar="N", help="its speed (%(default)s)")
    bench.set_defaults(func=_bench)

    keys = commands.add_parser("keys", help="make or show this device's CURVE keys")
    actions = keys.add_subparsers(title="actions", metavar="ACTION", required=True)
    make = actions.add_parser("make", help="make a key pair where the config says; never overwrites one")
    _config_option(make)
    make.set_defaults(func=_keys_make)
    show = actions.add_parser("show", help="print the public key, for the server's allow-list")
    _config_option(show)
    show.set_defaults(func=_keys_show)

    ledger = commands.add_parser(
        "ledger",
        help="what this device has released, and what it still may",
        description="Read the privacy ledger: what is spent and left, in whole-input epsilon, and when it will be "
        "spent at this rate. Does not disturb a running device.",
    )
    _config_option(ledger)
    ledger.add_argument("--json", action="store_true", help="print JSON")
    ledger.set_defaults(func=_ledger)

    config = commands.add_parser("config", help="check or show the config file")
    actions = config.add_subparsers(title="actions", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="check the file and everything it names")
    _config_option(check)
    check.add_argument("--without-key", action="store_true", help="leave the secret key unread, as a reload must")
    check.set_defaults(func=_config_check)
    shown = actions.add_parser("show", help="print every key with the value in force")
    _config_option(shown)
    shown.add_argument("--json", action="store_true", help="print JSON")
    shown.set_defaults(func=_config_show)
    return parser


def _config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        default=Path("/etc/edge-runtime/config.toml"),
        metavar="FILE",
        help="config file (default: %(default)s)",
    )


def _run(args: argparse.Namespace) -> int:
    from edge_runtime import config, daemon
    from split_model.service.notify import Notifier

    device = config.load(args.config)
    service = daemon.Service(
        config=args.config,
        reread=lambda: config.load(args.config),
        status=_status_path(args, device),
        notifier=Notifier.from_environment(),
    )
    faulthandler.enable(2)  # the watchdog kills with SIGABRT: where every thread was then is in the journal
    return daemon.run(device, service=service)


def _status_path(args: argparse.Namespace, device: Config | None) -> Path:
    from edge_runtime.service import status
    from split_model.service import status_file

    return status_file.find(
        status.NAME,
        None if device is None else device.device.status,
        args.config,
        runtime_directory=os.environ.get("RUNTIME_DIRECTORY"),
        service=status.SERVICE,
    )


def _status(args: argparse.Namespace) -> int:
    from edge_runtime import config
    from edge_runtime.service.show import show
    from split_model.errors import SplitModelError

    try:
        device: Config | None = config.load(args.config, check_server_keys=False)
    except SplitModelError:  # a program that runs with an older config is still found in systemd's folder
        device = None
    return show(_status_path(args, device), as_json=args.json, watch_s=args.watch)


def _doctor(args: argparse.Namespace) -> int:
    from edge_runtime import config
    from edge_runtime.service.doctor import examine
    from split_model.errors import SplitModelError
    from split_model.service.findings import show

    try:
        status = _status_path(args, config.load(args.config, check_server_keys=False))
    except SplitModelError:  # doctor says what is wrong with it
        status = None
    if not args.verbose:
        logging.getLogger().setLevel(logging.CRITICAL)  # what is wrong stands in the findings
    return show(examine(args.config, status, server=not args.no_server), as_json=args.json)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text}: give seconds from 0.1 to 3600")
    return seconds


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a number of one or more")
    return count


def _bench(args: argparse.Namespace) -> int:
    import msgspec

    from edge_runtime import config, daemon
    from edge_runtime.bench.command import Options
    from edge_runtime.bench.table import render
    from split_model.errors import ServerUnreachableError

    options = Options(
        runs=args.runs, server=not args.no_link, power_meter=args.power_meter, power_baud=args.power_baud
    )
    report = daemon.bench(config.load(args.config), options)
    print(msgspec.json.encode(report).decode() if args.json else render(report))
    if args.server and report.link is not None and not report.link.reachable:
        raise ServerUnreachableError(f"the link was not measured: {report.link.trouble}")
    return 0


def _keys_make(args: argparse.Namespace) -> int:
    from edge_runtime import config
    from split_model.keys import make_pair

    path = config.load(args.config, check_server_keys=False).device.key
    pair = make_pair(path.parent, path.name.removesuffix(".key"))
    print(pair.public.decode())
    return 0


def _keys_show(args: argparse.Namespace) -> int:
    from edge_runtime import config
    from split_model.keys import read_pair

    print(read_pair(config.load(args.config, check_server_keys=False).device.key).public.decode())
    return 0


def _ledger(args: argparse.Namespace) -> int:
    from edge_runtime import config
    from edge_runtime.ledger import read, system_now
    from edge_runtime.ledger.status import as_text, ledger_status

    device = config.load(args.config)
    books = read(device.device.state)
    if books is None:
        print("null" if args.json else "no ledger yet: this device has never been started")
        return 0
    status = ledger_status(books, device.limits, system_now()())
    if args.json:
        import msgspec

        print(msgspec.json.encode(status).decode())
    else:
        print(as_text(status))
    return 0


def _config_check(args: argparse.Namespace) -> int:
    from edge_runtime import config, daemon

    device, layers = config.load_layers(args.config)
    daemon.check(device, with_key=not args.without_key)
    print(f"{', '.join(map(str, layers.files))}: good")
    return 0


def _config_show(args: argparse.Namespace) -> int:
    from edge_runtime import config
    from split_model.config import as_plain
    from split_model.layers import for_terminal, origin_rows

    device, layers = config.load_layers(args.config)
    plain = as_plain(device)
    if args.json:
        print(json.dumps({**plain, "origins": origin_rows(plain, layers)}, indent=1))
    else:
        print(for_terminal(plain, layers, dumps=json.dumps))
    return 0


if __name__ == "__main__":
    sys.exit(main())

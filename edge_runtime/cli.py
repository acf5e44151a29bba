"""The command ``edge-runtime``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from split_model import __version__
from split_model.command_line import Parser, run_main


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
        description="Answer every frame of the source, here or with the server's help; one JSON line a frame.",
    )
    _config_option(run)
    run.set_defaults(func=_run)

    profile = commands.add_parser(
        "profile",
        help="measure every offered cut on this board and keep the figures",
        description="Time every head, its release and the whole model on this board; 'run' uses the figures.",
    )
    _config_option(profile)
    profile.add_argument("--json", action="store_true", help="print JSON")
    profile.set_defaults(func=_profile)

    keys = commands.add_parser("keys", help="make or show this device's CURVE keys")
    actions = keys.add_subparsers(title="actions", metavar="ACTION", required=True)
    make = actions.add_parser("make", help="make a key pair where the config says; never overwrites one")
    _config_option(make)
    make.set_defaults(func=_keys_make)
    show = actions.add_parser("show", help="print the public key, for the server's allow-list")
    _config_option(show)
    show.set_defaults(func=_keys_show)

    config = commands.add_parser("config", help="check or show the config file")
    actions = config.add_subparsers(title="actions", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="check the file and everything it names")
    _config_option(check)
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

    return daemon.run(config.load(args.config))


def _profile(args: argparse.Namespace) -> int:
    from edge_runtime import config, daemon

    profile = daemon.profile_now(config.load(args.config))
    if args.json:
        import msgspec

        print(msgspec.json.encode(profile).decode())
        return 0
    print(f"{'split':>7}  {'head ms':>8}  {'p95 ms':>8}  {'release ms':>10}  {'bytes':>8}")
    for timing in profile.splits:
        name = "local" if timing is profile.local else str(timing.split)
        print(
            f"{name:>7}  {timing.head_s * 1e3:8.1f}  {timing.head_p95_s * 1e3:8.1f}  "
            f"{timing.release_s * 1e3:10.2f}  {timing.payload_bytes:8d}"
        )
    if profile.slowdown != 1.0:
        print(f"an EMULATED board, {profile.slowdown:g} times slower than this machine")
    return 0


def _keys_make(args: argparse.Namespace) -> int:
    from edge_runtime import config
    from split_model.keys import make_pair

    path = config.load(args.config).device.key
    pair = make_pair(path.parent, path.name.removesuffix(".key"))
    print(pair.public.decode())
    return 0


def _keys_show(args: argparse.Namespace) -> int:
    from edge_runtime import config
    from split_model.keys import read_pair

    print(read_pair(config.load(args.config).device.key).public.decode())
    return 0


def _config_check(args: argparse.Namespace) -> int:
    from edge_runtime import config, daemon

    daemon.check(config.load(args.config))
    print(f"{args.config}: good")
    return 0


def _config_show(args: argparse.Namespace) -> int:
    from edge_runtime import config
    from split_model.config import as_plain

    plain = as_plain(config.load(args.config))
    if args.json:
        print(json.dumps(plain, indent=1))
        return 0
    for table, entries in plain.items():
        print(f"[{table}]")
        for key, value in entries.items():
            print(f"{key} = {json.dumps(value)}" if value is not None else f"# {key} is not set")
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())

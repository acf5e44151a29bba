"""The command ``cloud-server``."""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cloud_server import allow_list, status
from cloud_server import config as configuration
from split_model import __version__
from split_model.command_line import Parser, run_main
from split_model.errors import BadInputError, ConfigError, MissingInputError, SplitModelError
from split_model.protocol.keys import make_next, make_pair, read_pair, read_public, switch_to_next
from split_model.service import status_file, toml_text
from split_model.service.config_file import as_plain
from split_model.service.config_show import as_json, as_toml
from split_model.service.notify import Notifier
from split_model.service.status_file import SERVING, boot_s, condition_now

KEY_CHARS = 40
_CONFIG = Path("/etc/cloud-server/config.toml")

_DESCRIPTION = """\
Runs the second half of a network for the boards you have allowed.

first time:
  cloud-server keys make -c server.toml                  make the server's keys; devices need the public one
  cloud-server devices allow -c server.toml porch 'KEY'  KEY is what 'edge-runtime keys' prints on the board
  cloud-server run -c server.toml                        or: systemctl enable --now cloud-server

Without -c the config is /etc/cloud-server/config.toml; conf.d/*.toml beside it is read after it.
"""
_EXAMPLE = """\
a config file:
  [server]
  listen = "tcp://0.0.0.0:5555"   # port 0 takes a free one; 'status' says which
  key = "server.key"              # relative paths start at the config file
  devices = "devices"             # who may connect; 'devices allow' writes it
  bundles = ["bundles"]           # bundles, or folders of bundles
"""

_ROTATION = """\
to change the key without an outage:
  sudo cloud-server keys rotate      makes the next key and prints its public half
  add that to server.public_keys of every device (two are trusted), and reload them: systemctl reload edge-runtime
  sudo cloud-server keys switch
  sudo systemctl restart cloud-server
  take the old key out of every device's server.public_keys, and reload them
"""


def _run(args: argparse.Namespace) -> None:
    from cloud_server.service import serve

    config = configuration.load(args.config)
    faulthandler.enable(2)  # the watchdog kills with SIGABRT: where every thread was then is in the journal
    serve(
        config,
        _status_path(config, args),
        ready_fd=args.ready_fd,
        reread=lambda: configuration.load(args.config),
        notifier=Notifier.from_environment(),
    )


def _status(args: argparse.Namespace) -> int:
    try:
        config: configuration.Config | None = configuration.load(args.config)
    except ConfigError:  # a program that runs with an older config is still found in systemd's folder
        config = None
    found = status_file.read(_status_path(config, args), status.Status, key=status.KEY)
    condition = condition_now(found)
    if args.json:
        _print_json({"condition": condition, **msgspec.to_builtins(found)})
    else:
        counters = found.counters
        refused = ", ".join(f"{code} {count}" for code, count in sorted(counters.refused.items())) or "none"
        print(f"{condition}   pid {found.pid}, {found.software}, up {found.uptime_s:.0f} s")
        print(f"listen    {found.listen}   public key {found.public_key}")
        print(f"hosting   {len(found.bundles)} bundles, {found.tails} tails on {found.threads} threads")
        print(f"devices   {found.devices} allowed, {found.peers} connected")
        print(f"holding   {found.held_bytes} bytes, {found.queued} requests waiting, {found.running} running")
        print(f"requests  {counters.requests}: {counters.answered} answered, {counters.failed} failed, ", end="")
        print(f"{counters.cancelled} cancelled, {counters.dropped} dropped")
        print(f"refusals  {refused}")
        for key, times in found.refused_keys.items():
            remedy = f"cloud-server devices allow -c {args.config} NAME '{key}'"
            print(f"refused   an unknown device, {times} times; to admit it: {remedy}")
        if found.reload_error:
            print(f"reload    REFUSED, the config before is in force: {found.reload_error}")
        if condition not in ("running", "stopped"):
            print(f"written   {boot_s() - found.written_boot_s:.0f} s ago")
    return 0 if condition in SERVING else os.EX_UNAVAILABLE


def _doctor(args: argparse.Namespace) -> int:
    from cloud_server.doctor import examine
    from split_model.service.findings import show

    try:
        path: Path | None = _status_path(configuration.load(args.config), args)
    except SplitModelError:  # doctor says what is wrong with it
        path = None
    return show(examine(args.config, path), as_json=args.json)


def _read_devices(path: Path) -> tuple[dict[str, str], list[str]]:
    """The allow-list, by key, and what is wrong in it; an empty one where there is no file yet."""
    try:
        return allow_list.parse(path.read_bytes(), str(path))
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        raise MissingInputError(f"{path}: {error.strerror}", remedy="run this as a user who may read it") from None


def _devices_list(args: argparse.Namespace) -> None:
    devices, complaints = _read_devices(configuration.load(args.config).server.devices)
    if args.json:
        _print_json([{"name": name, "public_key": key} for key, name in devices.items()])
    else:
        for key, name in devices.items():
            print(name, key)
    if complaints:
        raise BadInputError("; ".join(complaints))


def _devices_allow(args: argparse.Namespace) -> None:
    path = Path(args.key)
    if len(args.key) != KEY_CHARS and not path.is_file():
        raise BadInputError(
            f"{args.key}: neither a public key ({KEY_CHARS} characters of Z85) nor a .pub file",
            remedy="put it in 'single quotes'",
        )
    key = args.key if len(args.key) == KEY_CHARS else read_public(path).decode()
    allow_list.allow(configuration.load(args.config).server.devices, args.name, key)
    print(f"{args.name} may connect; a running server needs no restart")


def _devices_revoke(args: argparse.Namespace) -> None:
    allow_list.revoke(configuration.load(args.config).server.devices, args.name)
    print(f"{args.name} is refused from its next message on")


def _models_list(args: argparse.Namespace) -> None:
    from cloud_server.tails import TailSet

    tails = TailSet.open(configuration.load(args.config).server.bundles)
    rows = []
    for identity, bundle in tails.bundles.items():
        name, cuts = bundle.manifest.name, [cut.index for cut in bundle.manifest.cuts]
        tail_bytes = sum(cut.tail.size_bytes for cut in bundle.manifest.cuts)
        rows.append(
            {"name": name, "identity": identity, "folder": str(bundle.root), "cuts": cuts, "tail_bytes": tail_bytes}
        )
        if not args.json:
            print(f"{name}   {identity[:12]}   {tail_bytes / 2**20:.1f} MiB of tails   {bundle.root}")
            print(f"  cuts {' '.join(map(str, cuts))}")
    if args.json:
        _print_json(rows)


def _keys_make(args: argparse.Namespace) -> None:
    path = configuration.load(args.config).server.key
    print(make_pair(path.parent, path.stem).public.decode())


def _keys_show(args: argparse.Namespace) -> None:
    public = read_pair(configuration.load(args.config).server.key).public.decode()
    if args.json:
        _print_json({"public_key": public})
    else:
        print(public)


def _keys_rotate(args: argparse.Namespace) -> None:
    print(make_next(configuration.load(args.config).server.key).public.decode())


def _keys_switch(args: argparse.Namespace) -> None:
    print(switch_to_next(configuration.load(args.config).server.key).public.decode())
    print("restart the program to use it: systemctl restart cloud-server", file=sys.stderr)


def _config_check(args: argparse.Namespace) -> None:
    from cloud_server.reload import hub_limits
    from cloud_server.tails import TailSet

    config = configuration.load(args.config)
    hub_limits(config)
    if not args.without_key:
        read_pair(config.server.key)
    _, complaints = _read_devices(config.server.devices)
    if complaints:
        raise BadInputError("; ".join(complaints))
    bundles = TailSet.open(config.server.bundles).bundles.values()
    print(f"{args.config}: good; hosts {', '.join(bundle.manifest.name for bundle in bundles)}")


def _config_show(args: argparse.Namespace) -> None:
    config, layers = configuration.load_layers(args.config)
    plain = as_plain(config)
    status_path = _status_path(config, args)
    if args.json:
        print(as_json(plain, layers, status_file=str(status_path)))
    else:
        print(as_toml(plain, layers))
        print(f"\n{toml_text.comment(f'status file: {status_path}')}")


def _status_path(config: configuration.Config | None, args: argparse.Namespace) -> Path:
    return configuration.status_path(config, args.config, runtime_directory=os.environ.get("RUNTIME_DIRECTORY"))


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def _add(
    commands: argparse._SubParsersAction[Parser],
    name: str,
    func: Callable[..., int | None],
    text: str,
    **options: Any,
) -> Parser:
    parser = commands.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.", **options)
    parser.add_argument(
        "-c", "--config", type=Path, default=_CONFIG, metavar="FILE", help="the config file (default: %(default)s)"
    )
    _add_verbose(parser, default=argparse.SUPPRESS)  # so that it can stand on either side of the command
    parser.set_defaults(func=func)
    return parser


def _add_verbose(parser: Parser, *, default: Any) -> None:
    parser.add_argument(
        "-v", "--verbose", action="store_true", default=default, help="log more, and tracebacks of errors"
    )


def _with_json(parser: Parser) -> Parser:
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def make_parser() -> Parser:
    """The whole command line."""
    parser = Parser(prog="cloud-server", description=_DESCRIPTION, epilog=_EXAMPLE)
    parser.add_argument("--version", action="version", version=f"cloud-server {__version__}")
    _add_verbose(parser, default=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    run = _add(commands, "run", _run, "serve until SIGTERM or Ctrl-C", epilog=_EXAMPLE)
    run.add_argument("--ready-fd", type=int, metavar="N", help="write the address to this descriptor once ready")
    _with_json(_add(commands, "status", _status, "how the server is; exit 69 if it does not run"))

    text = "what is not well with this server, and what to do about it"
    _with_json(_add(commands, "doctor", _doctor, text))

    devices = commands.add_parser("devices", help="who may connect").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    _with_json(_add(devices, "list", _devices_list, "the allowed devices and their public keys"))
    allow = _add(devices, "allow", _devices_allow, "let a device connect, at once")
    allow.add_argument("name", metavar="NAME", help="a name for it, for you and the log")
    allow.add_argument(
        "key", metavar="KEY", help="its public key, 40 characters in 'single quotes', or the path of its .pub file"
    )
    revoke = _add(devices, "revoke", _devices_revoke, "let a device connect no longer, at once")
    revoke.add_argument("name", metavar="NAME", help="its name, as in 'devices list'")

    models = commands.add_parser("models", help="what is hosted").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    _with_json(_add(models, "list", _models_list, "the bundles and their cuts, checked by hash"))

    keys = commands.add_parser("keys", help="the server's key pair", epilog=_ROTATION).add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    _add(keys, "make", _keys_make, "make the key pair and print the public key")
    _with_json(_add(keys, "show", _keys_show, "print the public key, which devices need"))
    _add(
        keys,
        "rotate",
        _keys_rotate,
        "make the next key beside this one, and print its public half",
        epilog=_ROTATION,
    )
    _add(keys, "switch", _keys_switch, "take up the next key, once every device trusts it", epilog=_ROTATION)

    config = commands.add_parser("config", help="the config file").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    check = _add(config, "check", _config_check, "check the file and that its bundles are there", epilog=_EXAMPLE)
    check.add_argument("--without-key", action="store_true", help="leave the secret key unread, as a reload must")
    _with_json(_add(config, "show", _config_show, "print every key with its value in force"))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main("cloud-server", make_parser(), _keys_last(sys.argv[1:] if argv is None else argv))


def _keys_last(argv: Sequence[str]) -> list[str]:
    """One public key in 85 opens with a dash: put such a one behind ``--``, or argparse takes it for an option."""
    keys = [w for w in argv if w.startswith("-") and len(w) == KEY_CHARS and not w.startswith("--config=")]
    return [*(word for word in argv if word not in keys), *(["--", *keys] if keys else [])]

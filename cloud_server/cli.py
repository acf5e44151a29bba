"""The command line of ``cloud-server``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cloud_server import commands
from split_model import __version__
from split_model.command_line import Parser, run_main
from split_model.protocol.keys import KEY_CHARS

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

_STATISTICS = """\
The server counts where the config has a file for it:
  [statistics]
  path = "/var/lib/cloud-server/statistics.sqlite"
  labels = { entrance = ["porch*", "hall"] }

Devices answer with randomised response, so no single codeword can be believed; the estimates are unbiased, and the
intervals cover the randomness of the mechanism. A class is the decoder's reading of a codeword; the camera may have
seen another.
"""

_FLEET = """\
There is, where not exact, as much or more; docs/fleet.md explains each column. 'silent' devices were here since the
server's start and are not; their last figures are shown.
"""

_WEB = """\
The page is off unless the config has a table [web]:
  [web]
  listen = "127.0.0.1:8480"     another machine's browser comes through: ssh -L 8480:127.0.0.1:8480 HOST
  password = "web.password"
  metrics_token = "web.token"   if Prometheus shall read https://HOST/metrics
"""

_ROTATION = """\
to change the key without an outage:
  sudo cloud-server keys rotate      makes the next key and prints its public half
  add that to server.public_keys of every device (two are trusted), and reload them: systemctl reload edge-runtime
  sudo cloud-server keys switch
  sudo systemctl restart cloud-server
  take the old key out of every device's server.public_keys, and reload them
"""


def _add(
    adding: argparse._SubParsersAction[Parser],
    name: str,
    func: Callable[..., int | None],
    text: str,
    *,
    below: bool = False,
    **options: Any,
) -> Parser:
    """Add a command; ``below``: its parent also has ``-c``, so ``-c`` may stand before or after it."""
    parser = adding.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.", **options)
    _add_config(parser, default=argparse.SUPPRESS if below else _CONFIG)
    _add_verbose(parser, default=argparse.SUPPRESS)  # so that it can stand on either side of the command
    parser.set_defaults(func=func)
    return parser


def _add_config(parser: Parser, *, default: Any) -> None:
    parser.add_argument(
        "-c", "--config", type=Path, default=default, metavar="FILE", help=f"the config file (default: {_CONFIG})"
    )


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
    adding = parser.add_subparsers(title="commands", metavar="COMMAND")
    run = _add(adding, "run", commands.run, "serve until SIGTERM or Ctrl-C", epilog=_EXAMPLE)
    run.add_argument("--ready-fd", type=int, metavar="N", help="write the address to this descriptor once ready")
    _with_json(_add(adding, "status", commands.status, "state of the server; exit code 69 if it does not run"))

    counted = _add(
        adding,
        "statistics",
        commands.statistics,
        "estimates of how often each codeword of the codebook release was true",
        epilog=_STATISTICS,
    )
    counted.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="NAME",
        help="only devices of this name, pattern ('porch*') or label of the config; may be repeated",
    )
    counted.add_argument("--each", action="store_true", help="one table for each device")
    counted.add_argument("--last", metavar="TIME", help="the last 30m, 24h or 7d (default: all stored counts)")
    counted.add_argument("--since", metavar="TIME", help="from this time on, as 2026-11-28 or 2026-11-28T08:00")
    counted.add_argument("--until", metavar="TIME", help="up to this time")
    counted.add_argument(
        "--top", type=int, default=10, metavar="N", help="rows of each table (default: %(default)s); 0 for all"
    )
    counted.add_argument("--watch", action="store_true", help="repeat every five seconds until Ctrl-C")
    _with_json(counted)

    text = "check everything the server needs; print faults and remedies"
    _with_json(_add(adding, "doctor", commands.doctor, text))

    table = _add(
        adding,
        "devices",
        commands.devices_show,
        "show the fleet with the state of every device; change the allow-list",
        epilog=_FLEET,
    )
    _with_json(table)
    table.add_argument("--watch", action="store_true", help="repeat every two seconds until Ctrl-C")
    devices = table.add_subparsers(title="commands", metavar="COMMAND")
    listed = _with_json(
        _add(devices, "list", commands.devices_list, "the allowed devices and their public keys", below=True)
    )
    listed.add_argument("--revoked", action="store_true", help="list the revoked keys that were not allowed again")
    allow = _add(devices, "allow", commands.devices_allow, "let a device connect, at once", below=True)
    allow.add_argument("name", metavar="NAME", help="its name, for commands and the log")
    allow.add_argument(
        "key", metavar="KEY", help="its public key, 40 characters in 'single quotes', or the path of its .pub file"
    )
    allow.add_argument(
        "--weight",
        type=int,
        default=1,
        metavar="N",
        help="its share of a busy server relative to weight 1, from 1 to 100 (default: 1)",
    )
    revoke = _add(devices, "revoke", commands.devices_revoke, "refuse a device from now on", below=True)
    revoke.add_argument("name", metavar="NAME", help="its name, as in 'devices list'")
    forget = "do not remember its key; else deploy.sh admits it again with --readmit only"
    revoke.add_argument("--forget", action="store_true", help=forget)

    web = adding.add_parser("web", help="the web page of the fleet", epilog=_WEB).add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    password = _add(web, "password", commands.web_password, "set the page's password", epilog=_WEB)
    made = "make a password and print it; without this option it is asked for, or read from standard input"
    password.add_argument("--make", action="store_true", help=made)
    _add(web, "token", commands.web_token, "make the token with which Prometheus reads the metrics", epilog=_WEB)

    models = adding.add_parser("models", help="the hosted bundles").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    _with_json(_add(models, "list", commands.models_list, "the bundles and their cuts, checked by hash"))

    keys = adding.add_parser("keys", help="the server's key pair", epilog=_ROTATION).add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    _add(keys, "make", commands.keys_make, "make the key pair and print the public key")
    _with_json(_add(keys, "show", commands.keys_show, "print the public key, which devices need"))
    _add(
        keys,
        "rotate",
        commands.keys_rotate,
        "make the next key beside this one, and print its public half",
        epilog=_ROTATION,
    )
    _add(
        keys,
        "switch",
        commands.keys_switch,
        "switch to the next key, once every device trusts it",
        epilog=_ROTATION,
    )

    config = adding.add_parser("config", help="the config file").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    check = _add(
        config, "check", commands.config_check, "check the file and that its bundles are there", epilog=_EXAMPLE
    )
    check.add_argument(
        "--without-key", action="store_true", help="do not read the secret key (a reload does not read it either)"
    )
    _with_json(_add(config, "show", commands.config_show, "print every key with its effective value"))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main("cloud-server", make_parser(), _keys_last(sys.argv[1:] if argv is None else argv))


def _keys_last(argv: Sequence[str]) -> list[str]:
    """Put ``--`` before a public key that begins with a dash (one in 85), or argparse takes it as an option."""
    keys = [w for w in argv if w.startswith("-") and len(w) == KEY_CHARS and not w.startswith("--config=")]
    return [*(word for word in argv if word not in keys), *(["--", *keys] if keys else [])]

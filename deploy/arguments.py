"""The command lines of ``deploy.sh`` and ``deploy-server.sh``, with their help texts."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from deploy import configs, enrol
from deploy.errors import UsageError
from deploy.locks import BACKENDS, BOARD_EXTRAS, SERVER_EXTRAS

_DEVICE = """\
Put the device program and a bundle onto boards, and start it as a service.

Each board is checked, gets the missing files (it needs no internet), makes its
keys and is enrolled at the server. It tries the new release beside the one in
use, switches to it, and goes back by itself if it does not answer. Running the
same command again changes nothing, or finishes an interrupted run.
"""
_DEVICE_EXAMPLES = """\
examples, each with --bundle bundles/mine:
  deploy/deploy.sh pi@porch --server admin@hall --whole-input-budget unlimited
  deploy/deploy.sh pi@porch pi@yard           again, with a new bundle
  deploy/deploy.sh pi@porch --server hall.example:5555 --server-key 'KEY'
                                              no SSH to the server
  deploy/deploy.sh pi@porch --server admin@hall --server admin@loft
                                              two servers, one may fail
  deploy/deploy.sh pi@porch --with camera     and what reads cameras
and without:
  deploy/deploy.sh pi@porch --uninstall --server admin@hall

SSH is yours: ~/.ssh/config, agent, jump hosts, known_hosts. Host keys are
always checked.
"""
_SERVER = """\
Put the server program and bundles onto a server, and start it as a service.

It checks, installs, switches and goes back as deploy.sh does. The bundles it
hosts already stay, unless --only is given.
"""
_SERVER_EXAMPLES = """\
examples, each with --bundle bundles/mine:
  deploy/deploy-server.sh admin@hall --bundle bundles/other
  deploy/deploy-server.sh admin@hall --only
  deploy/deploy-server.sh admin@hall --with web   and the page of docs/fleet.md

It prints the server's public key; deploy.sh asks the server for it.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, remedy="see --help")


class _Once(argparse.Action):
    """An option with one value; argparse would silently use the last of several."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002  (argparse hands it in)
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not self.default:
            raise UsageError(f"{option_string} is given twice", remedy="give it once")
        setattr(namespace, self.dest, values)


#: A board keeps a connection to each of its servers.
_MOST_SERVERS = 2


@dataclass
class ServerOption:
    """One ``--server`` with its further options; empty if not given."""

    text: str
    key: str = ""
    address: str = ""
    config: str = ""


class _Server(argparse.Action):
    """The action of ``--server``: the options after it belong to this server."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002  (argparse hands it in)
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        servers: list[ServerOption] = [*getattr(namespace, self.dest), ServerOption(str(values))]
        if len(servers) > _MOST_SERVERS:
            raise UsageError(f"{option_string} is given {len(servers)} times", remedy="give two at most")
        if len({server.text for server in servers}) < len(servers):
            raise UsageError(f"{option_string} {values} is given twice", remedy="name two servers, or one")
        setattr(namespace, self.dest, servers)


class _OfServer(argparse.Action):
    """The action of an option that belongs to the ``--server`` before it, or to the only one."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002  (argparse hands it in)
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        name = self.dest.removeprefix("server_")
        owner = namespace.servers[-1] if namespace.servers else namespace.of_no_server
        if getattr(owner, name):
            raise UsageError(f"{option_string} is given twice", remedy="give it once, or once behind each --server")
        setattr(owner, name, str(values))


def servers_of(args: argparse.Namespace) -> list[ServerOption]:
    """The servers of the command line, each with its options.

    Raises:
        UsageError: It is not clear to which of several servers an option belongs.

    """
    loose: ServerOption = args.of_no_server
    servers: list[ServerOption] = args.servers
    for name in ("key", "address", "config"):
        value = getattr(loose, name)
        if value and len(servers) > 1:
            raise UsageError(f"--server-{name} stands before --server", remedy="put it after its server")
        for server in servers if value else ():
            if getattr(server, name):
                raise UsageError(f"--server-{name} is given twice", remedy="give it once")
            setattr(server, name, value)
    return servers


def make_parser(program: str) -> argparse.ArgumentParser:
    """The command line of the script that deploys a program."""
    device = program == "edge-runtime"
    parser = _Parser(
        prog="deploy/deploy.sh" if device else "deploy/deploy-server.sh",
        description=_DEVICE if device else _SERVER,
        epilog=_DEVICE_EXAMPLES if device else _SERVER_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for action in (None, "store"):
        parser.register("action", action, _Once)
    parser.add_argument("hosts", nargs="+", metavar="[USER@]HOST", help="an SSH destination, as for ssh")
    bundle = "folder made by 'split-model prepare'"
    if device:
        parser.add_argument("--bundle", type=Path, metavar="DIR", help=bundle)
        parser.set_defaults(of_no_server=ServerOption(""))
        _device_options(parser)
    else:
        parser.add_argument("--bundle", type=Path, metavar="DIR", action="append", default=[], help=bundle)
        parser.add_argument("--only", action="store_true", help="host these bundles and no others")
        port = f"port to listen on; at first {enrol.DEFAULT_PORT}"
        parser.add_argument("--port", type=int, metavar="N", help=port)
        add = parser.add_argument
        extra = "web: the page that shows the fleet, on the server's loopback; later deployments keep it"
        add("--with", dest="extras", action="append", default=[], choices=SERVER_EXTRAS, help=extra)
        add("--without", action="append", default=[], choices=SERVER_EXTRAS, help="remove such an extra")
    _common_options(parser)
    return parser


def _common_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    backend = "ai-edge-litert (litert), or tflite-runtime (legacy; Python 3.11 or older)"
    add("--config", type=Path, metavar="FILE", help="a config of yours instead of the one made at first")
    add("--backend", choices=sorted(BACKENDS), default="litert", help=backend)
    add("--dry-run", action="store_true", help="check, and print the steps without doing them")
    add("--uninstall", action="store_true", help="remove the program; keep config, keys and state")
    purge = "with --uninstall: remove those too, and with them the privacy ledger"
    add("--purge", action="store_true", help=purge)
    add("-F", dest="ssh_config", metavar="FILE", help="config file for ssh, as its -F")
    add(
        "-o",
        dest="ssh_options",
        metavar="OPTION",
        action="append",
        default=[],
        help="option for ssh, as its -o; may be repeated",
    )


def _device_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    server = "the server, asked over SSH where that works; given twice, boards have two, and go on with one of them"
    add("--server", dest="servers", action=_Server, default=[], metavar="[USER@]HOST[:PORT]", help=server)
    key = "its public key, if SSH to it does not work; of two servers, these options are behind each one's --server"
    add("--server-key", metavar="KEY", help=key, action=_OfServer, default=argparse.SUPPRESS)
    address = "its address for boards, if it differs from the name you use"
    add("--server-address", metavar="tcp://HOST:PORT", help=address, action=_OfServer, default=argparse.SUPPRESS)
    server_config = f"the server's config file, there (default: {configs.config_path('cloud-server')})"
    add("--server-config", metavar="FILE", help=server_config, action=_OfServer, default=argparse.SUPPRESS)
    add("--name", default="", help="the board's name at the server (default: its host name)")
    add("--replace", action="store_true", help="take that name from another board, and revoke the key of that one")
    add("--readmit", action="store_true", help="admit a board again whose key was revoked at the server")
    extra = (
        "camera: OpenCV, GStreamer, and on a Raspberry Pi picamera2; heif: HEIC pictures; later deployments keep it"
    )
    add("--with", dest="extras", action="append", default=[], choices=BOARD_EXTRAS, help=extra)
    add("--without", action="append", default=[], choices=BOARD_EXTRAS, help="remove such an extra")
    budget = "maximum that the board may ever release, or 'unlimited'; without it, nothing leaves the board"
    add("--whole-input-budget", type=_budget, metavar="EPSILON", help=budget)


def _budget(text: str) -> str:
    if text == "unlimited":
        return text
    try:
        positive = 0 < float(text) < float("inf")
    except ValueError:
        positive = False
    if not positive:
        raise argparse.ArgumentTypeError(
            f"{text}: the whole-input epsilon must be a positive number, or 'unlimited'"
        )
    return text

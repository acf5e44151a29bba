"""The command line of ``deploy.sh`` and ``deploy-server.sh``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

from deploy import configs, enrol
from deploy.bundles import read_bundle
from deploy.errors import DeployError, MissingError, UsageError
from deploy.install import Installation, Job, Outcome, summary
from deploy.locks import BACKENDS
from deploy.release import bundle_parts
from deploy.remote import Remote

_MANY = 8

_DEVICE = """\
Put the device program and a bundle onto boards and start it there as a service.

Each board is checked, gets the missing files (it needs no internet), makes its keys, is enrolled at the
server, tries the new release beside the one in use, switches to it, and goes back by itself if it does not answer.
Running the same command again changes nothing, or finishes an interrupted run.
"""
_DEVICE_EXAMPLES = """\
examples:
  deploy/deploy.sh pi@porch --bundle bundles/mine --server admin@hall --whole-input-budget unlimited
  deploy/deploy.sh pi@porch pi@yard --bundle bundles/mine        # again, with a new bundle
  deploy/deploy.sh pi@porch --bundle bundles/mine --server hall.example:5555 --server-key 'KEY'   # no SSH to it
  deploy/deploy.sh pi@porch --uninstall --server admin@hall

SSH is yours: ~/.ssh/config, agent, jump hosts, known_hosts. Host keys are always checked.
"""
_SERVER = """\
Put the server program and bundles onto a server and start it there as a service.

It checks, installs, switches and goes back as deploy.sh does. The bundles it hosts already stay, unless --only is
given.
"""
_SERVER_EXAMPLES = """\
examples:
  deploy/deploy-server.sh admin@hall --bundle bundles/mine --bundle bundles/other
  deploy/deploy-server.sh admin@hall --bundle bundles/mine --only

It prints the server's public key; deploy.sh asks the server for it.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, remedy="see --help")


class _Once(argparse.Action):
    """Keeps one value; argparse would silently let the last of several win."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002  (argparse hands it in)
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not self.default:
            why = (
                " (a board talks to one server; it does not fail over to a second)" if self.dest == "server" else ""
            )
            raise UsageError(f"{option_string} is given twice{why}", remedy="give it once")
        setattr(namespace, self.dest, values)


def _parser(program: str) -> argparse.ArgumentParser:
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
        _device_options(parser)
    else:
        parser.add_argument("--bundle", type=Path, metavar="DIR", action="append", default=[], help=bundle)
        parser.add_argument("--only", action="store_true", help="host these bundles and no others")
        port = f"where to listen; at first {enrol.DEFAULT_PORT}"
        parser.add_argument("--port", type=int, metavar="N", help=port)
    _common_options(parser)
    return parser


def _common_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    backend = "ai-edge-litert (litert), or tflite-runtime (legacy; Python 3.11 or older)"
    add("--config", type=Path, metavar="FILE", help="a config of yours instead of the one made at first")
    add("--backend", choices=sorted(BACKENDS), default="litert", help=backend)
    add("--dry-run", action="store_true", help="check, and say what would be done")
    add("--uninstall", action="store_true", help="remove the program; keeps config, keys and state")
    purge = "with --uninstall: remove those too, and with them the privacy ledger"
    add("--purge", action="store_true", help=purge)
    add("-F", dest="ssh_config", metavar="FILE", help="as ssh -F")
    add("-o", dest="ssh_options", metavar="OPTION", action="append", default=[], help="as ssh -o")


def _device_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--server", metavar="[USER@]HOST[:PORT]", help="the server; asked over SSH where that works")
    add("--server-key", default="", metavar="KEY", help="its public key, if SSH to it does not work")
    address = "where boards find it, if that is not the name you reach it by"
    add("--server-address", default="", metavar="tcp://HOST:PORT", help=address)
    server_config = "the server's config file, there (default: %(default)s)"
    add("--server-config", default=configs.config_path("cloud-server"), metavar="FILE", help=server_config)
    add("--name", default="", help="the board's name at the server (default: its host name)")
    add("--replace", action="store_true", help="take that name away from another board, whose key is revoked")
    add("--readmit", action="store_true", help="admit a board again whose key was revoked at the server")
    budget = "what the board may ever release, or 'unlimited'; without it, nothing leaves the board"
    add("--whole-input-budget", type=_budget, metavar="EPSILON", help=budget)


def _budget(text: str) -> str:
    if text == "unlimited":
        return text
    try:
        positive = 0 < float(text) < float("inf")
    except ValueError:
        positive = False
    if not positive:
        raise argparse.ArgumentTypeError(f"{text}: give a positive number of whole-input epsilon, or 'unlimited'")
    return text


class _Connections:
    """Every SSH connection of this run, and their end."""

    def __init__(self, args: argparse.Namespace, scratch: Path) -> None:
        options = ["-F", args.ssh_config] if args.ssh_config else []
        self._options = [*options, *(word for option in args.ssh_options for word in ("-o", option))]
        self._scratch = scratch
        self._batch = not sys.stdin.isatty()
        self._made: list[Remote] = []

    def open(self, destination: str) -> Remote:
        remote = Remote(destination, options=self._options, scratch=self._scratch, batch=self._batch)
        self._made.append(remote)
        remote.connect()
        return remote

    def close(self) -> None:
        for remote in self._made:
            remote.close()


def _job(program: str, args: argparse.Namespace, connect: Callable[[str], Remote]) -> Job:
    device = program == "edge-runtime"
    main = configs.config_path(program)
    texts = {main: _read_config(args.config)} if args.config else {}
    server = None
    if device:
        first = configs.device_config(budget=args.whole_input_budget or "")
        if args.whole_input_budget:
            texts.setdefault(main, first)
        if args.server:
            server = _look(args, connect)
            texts[configs.SERVER_PATH] = "" if args.uninstall else _server_text(server)
    else:
        first = configs.server_config(port=args.port or enrol.DEFAULT_PORT)
        if args.port:
            texts.setdefault(main, first)
    roots = args.bundle if not device else [args.bundle] if args.bundle else []
    if not roots and not args.uninstall:
        raise UsageError("--bundle is missing", remedy="name a folder that 'split-model prepare' made")
    return Job(
        program=program,
        backend=args.backend,
        parts=tuple(bundle_parts([read_bundle(root) for root in roots], one=device)),
        first_config=first,
        configs=texts,
        server=server,
        **(
            {
                "name": args.name,
                "replace": args.replace,
                "readmit": args.readmit,
                "server_config": args.server_config,
            }
            if device
            else {}
        ),
        keep_hosted=not device and not args.only,
        dry_run=args.dry_run,
    )


def _read_config(path: Path) -> str:
    """The user's config, to the last byte; the program there reads it as strictly as any."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: byte 0x{error.object[error.start]:02x} is not UTF-8", remedy="save the file as UTF-8 text"
        ) from None


def _look(args: argparse.Namespace, connect: Callable[[str], Remote]) -> enrol.Server:
    return enrol.look(
        args.server,
        address=args.server_address,
        public_key=args.server_key,
        config=args.server_config,
        connect=connect,
    )


def _server_text(server: enrol.Server) -> str:
    if not server.public_key:
        raise UsageError(
            f"the key of {server.destination} is not known, since SSH to it does not work ({server.trouble})",
            remedy="give --server-key with what 'cloud-server keys show' prints there",
        )
    return configs.device_server(address=server.address, public_key=server.public_key)


def _all_hosts(program: str, args: argparse.Namespace, connections: _Connections) -> list[Outcome]:
    job = _job(program, args, connections.open)

    def connected(host: str) -> Remote | Outcome:
        try:
            return connections.open(host)
        except DeployError as error:
            return Outcome(host, f"error: {error}", exit_code=error.exit_code)

    remotes = [connected(host) for host in args.hosts]  # one after the other, since ssh may ask something

    def one(remote: Remote | Outcome) -> Outcome:
        if isinstance(remote, Outcome):
            return remote
        installation = Installation(job, remote)
        return installation.uninstall(purge=args.purge) if args.uninstall else installation.run()

    with ThreadPoolExecutor(min(_MANY, len(remotes))) as pool:
        return list(pool.map(one, remotes))


def main(argv: Sequence[str] | None = None) -> int:
    """``device`` or ``server``, and its options; returns the exit code, that of the first host that failed."""
    words = list(sys.argv[1:] if argv is None else argv)
    program = {"device": "edge-runtime", "server": "cloud-server"}[words.pop(0)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        args = _parser(program).parse_args(words)
        if args.purge and not args.uninstall:
            raise UsageError("--purge goes with --uninstall", remedy="add that, or leave --purge out")
        if len(set(args.hosts)) < len(args.hosts):
            raise UsageError("a host is named twice", remedy="name each host once")
        if len(args.hosts) > 1 and vars(args).get("name"):
            raise UsageError("--name is for one host", remedy="leave it out; several boards go by their host names")
        if len(args.hosts) > 1 and vars(args).get("replace"):
            raise UsageError(
                "--replace is for one host, whose name at the server is known", remedy="deploy that host alone"
            )
        if args.config and not args.config.is_file():
            raise MissingError(f"{args.config}: no such file", remedy="name a config file that exists")
        with tempfile.TemporaryDirectory(prefix="deploy-") as scratch:
            connections = _Connections(args, Path(scratch))
            try:
                outcomes = _all_hosts(program, args, connections)
            finally:
                connections.close()
    except DeployError as error:
        print(f"deploy: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("deploy: interrupted; run the same command again to finish", file=sys.stderr)
        return 128 + signal.SIGINT
    _report(outcomes)
    return next((outcome.exit_code for outcome in outcomes if outcome.exit_code), os.EX_OK)


def _report(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.doctor.strip():
            print(f"--- {outcome.host}: doctor\n{outcome.doctor.rstrip()}")
    print(summary(outcomes))
    pending = [line for outcome in outcomes for line in outcome.pending]
    if pending:
        print("\nStill to be run on the server:")
        print("\n".join(f"  {line}" for line in pending))


if __name__ == "__main__":
    sys.exit(main())

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
from typing import Any

from deploy import configs, enrol
from deploy.arguments import ServerOption, make_parser, servers_of
from deploy.bundles import read_bundle
from deploy.errors import DeployError, MissingError, UsageError
from deploy.folding import fold
from deploy.install import Installation, Job, Outcome, summary
from deploy.release import bundle_parts
from deploy.remote import Remote

_MANY = 8


class _Connections:
    """Holds all SSH connections of this run, and closes them."""

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
    servers: tuple[enrol.Server, ...] = ()
    if device:
        first = configs.device_config(budget=args.whole_input_budget or "")
        if args.whole_input_budget:
            texts.setdefault(main, first)
        options = servers_of(args)
        if options:
            servers = tuple(_look(option, connect) for option in options)
            texts[configs.SERVER_PATH] = "" if args.uninstall else _servers_text(servers)
    else:
        first = configs.server_config(port=args.port or enrol.DEFAULT_PORT)
        if args.port:
            texts.setdefault(main, first)
        if "web" in args.extras:
            texts[configs.WEB_PATH] = configs.web()
    roots = args.bundle if not device else [args.bundle] if args.bundle else []
    if not roots and not args.uninstall:
        raise UsageError("--bundle is missing", remedy="name a folder that 'split-model prepare' made")
    return Job(
        program=program,
        backend=args.backend,
        parts=tuple(bundle_parts([read_bundle(root) for root in roots], one=device)),
        first_config=first,
        configs=texts,
        servers=servers,
        **(_of_a_board(args) if device else {}),
        extras=frozenset(args.extras),
        without=frozenset(args.without),
        keep_hosted=not device and not args.only,
        dry_run=args.dry_run,
    )


def _of_a_board(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "name": args.name,
        "replace": args.replace,
        "readmit": args.readmit,
        "server_config": args.of_no_server.config or configs.config_path("cloud-server"),
    }


def _read_config(path: Path) -> str:
    """Read the user's config exactly; the program on the machine will check it."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: byte 0x{error.object[error.start]:02x} is not UTF-8", remedy="save the file as UTF-8 text"
        ) from None


def _look(option: ServerOption, connect: Callable[[str], Remote]) -> enrol.Server:
    return enrol.look(
        option.text,
        address=option.address,
        public_key=option.key,
        config=option.config or configs.config_path("cloud-server"),
        connect=connect,
    )


def _servers_text(servers: Sequence[enrol.Server]) -> str:
    for server in servers:
        if not server.public_key:
            raise UsageError(
                f"the key of {server.destination} is unknown, as SSH to it does not work ({server.trouble})",
                remedy="give --server-key with the output of 'cloud-server keys show' there",
            )
    if len({server.address for server in servers}) < len(servers):
        raise UsageError(
            f"--server: both are {servers[0].address}", remedy="name two servers, or give --server-address of each"
        )
    return configs.device_servers([(server.address, server.public_key) for server in servers])


def _all_hosts(program: str, args: argparse.Namespace, connections: _Connections) -> list[Outcome]:
    job = _job(program, args, connections.open)

    def connected(host: str) -> Remote | Outcome:
        try:
            return connections.open(host)
        except DeployError as error:
            return Outcome(host, f"error: {error}", exit_code=error.exit_code)

    remotes = [connected(host) for host in args.hosts]  # one after the other, as ssh may ask a question

    def one(remote: Remote | Outcome) -> Outcome:
        if isinstance(remote, Outcome):
            return remote
        installation = Installation(job, remote)
        return installation.uninstall(purge=args.purge) if args.uninstall else installation.run()

    with ThreadPoolExecutor(min(_MANY, len(remotes))) as pool:
        return list(pool.map(one, remotes))


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``device`` or ``server`` with its options; returns the exit code of the first failed host, else 0."""
    words = list(sys.argv[1:] if argv is None else argv)
    program = {"device": "edge-runtime", "server": "cloud-server"}[words.pop(0)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        args = make_parser(program).parse_args(words)
        if args.purge and not args.uninstall:
            raise UsageError("--purge needs --uninstall", remedy="add --uninstall, or leave --purge out")
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
        print(fold(f"deploy: error: {' '.join(str(error).split())}", sys.stderr, indent=2), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("deploy: interrupted; run the same command again to finish", file=sys.stderr)
        return 128 + signal.SIGINT
    _report(outcomes)
    return next((outcome.exit_code for outcome in outcomes if outcome.exit_code), os.EX_OK)


def _report(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.doctor.strip():
            found = (fold(line, sys.stdout, indent=16) for line in outcome.doctor.rstrip().splitlines())
            print("\n".join([f"--- {outcome.host}: doctor", *found]))
    print(summary(outcomes))
    pending = [line for outcome in outcomes for line in outcome.pending]
    if pending:
        print("\nStill to be run on the server:")
        print("\n".join(f"  {line}" for line in pending))


if __name__ == "__main__":
    sys.exit(main())

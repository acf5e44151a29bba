"""Runs each command of ``edge-runtime``. Slow imports are made by the command that needs them."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_runtime.config.config import Config

log = logging.getLogger(__name__)

#: The name of the service: its unit, its user, and its folder in /etc.
_SERVICE = "edge-runtime"


def run(args: argparse.Namespace) -> int:
    """Answer frames until the source ends or the program receives a stop signal."""
    from edge_runtime.config import config
    from edge_runtime.daemon import daemon
    from split_model.service.notify import Notifier
    from split_model.service.privileges import refuse_root_for

    device = config.load(args.config)
    refuse_root_for(_SERVICE, config=args.config, state=device.device.state)
    service = daemon.Service(
        config=args.config,
        reread=lambda: config.load(args.config),
        status=_status_path(args, device),
        notifier=Notifier.from_environment(),
    )
    faulthandler.enable(2)  # the watchdog kills with SIGABRT: where every thread was then is in the journal
    return daemon.run(device, service)


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


def status(args: argparse.Namespace) -> int:
    """Show the state of the running program."""
    from edge_runtime.config import config
    from edge_runtime.service.show import show
    from split_model.errors import MissingInputError, SplitModelError

    wrong: SplitModelError | None = None
    try:
        device: Config | None = config.load(args.config, check_server_keys=False)
    except SplitModelError as error:  # a program that runs with an older config is still found in systemd's folder
        device, wrong = None, error
    path = _status_path(args, device)
    if isinstance(wrong, MissingInputError) and _is_absent(path):
        raise wrong  # a mistyped -c must not look like a stopped program
    return show(path, config=args.config, as_json=args.json, watch_s=args.watch)


def _is_absent(path: Path) -> bool:
    """Whether a file is missing; False if this user may not look there."""
    try:
        path.stat()
    except PermissionError:
        return False
    except OSError:
        return True
    return False


def doctor(args: argparse.Namespace) -> int:
    """Check everything the device needs and print the findings."""
    from edge_runtime.config import config
    from edge_runtime.service.doctor import examine
    from split_model.errors import SplitModelError
    from split_model.service.findings import show
    from split_model.service.privileges import another_user, step_down

    try:
        status = _status_path(args, config.load(args.config, check_server_keys=False))
    except SplitModelError:  # doctor reports it
        status = None
    if not args.verbose:
        logging.getLogger().setLevel(logging.CRITICAL)  # the findings list the errors
    findings = examine(
        args.config,
        status,
        server=not args.no_server,
        step_down=lambda device: step_down(_SERVICE, config=args.config, state=device.device.state),
        another_user=lambda device: another_user(_SERVICE, config=args.config, state=device.device.state),
    )
    return show(findings, as_json=args.json)


def bench(args: argparse.Namespace) -> int:
    """Measure the cuts on this board, and the link."""
    import msgspec

    from edge_runtime.bench import program
    from edge_runtime.bench.command import Options
    from edge_runtime.bench.table import render
    from edge_runtime.config import config
    from split_model.errors import ServerUnreachableError, SplitModelError
    from split_model.protocol.keys import KeyPair, read_pair
    from split_model.service.privileges import step_down

    options = Options(
        runs=args.runs, server=not args.no_link, power_meter=args.power_meter, power_baud=args.power_baud
    )
    device = config.load(args.config)
    keys: KeyPair | SplitModelError | None = None
    try:  # before root is given up: the key is readable for root
        keys = read_pair(device.device.key) if options.server else None
    except SplitModelError as error:
        if args.server:
            raise
        keys = error  # the board can be measured without the key
    step_down(_SERVICE, config=args.config, state=device.device.state)
    report = program.run(device, options, keys)
    print(msgspec.json.encode(report).decode() if args.json else render(report))
    if args.server and report.link is not None and not report.link.reachable:
        raise ServerUnreachableError(f"the link was not measured: {report.link.trouble}")
    return 0


def keys_make(args: argparse.Namespace) -> int:
    """Make the key pair."""
    from edge_runtime.config import config
    from split_model.protocol.keys import make_pair

    path = config.load(args.config, check_server_keys=False).device.key
    pair = make_pair(path.parent, path.name.removesuffix(".key"))
    print(pair.public.decode())
    return 0


def keys_show(args: argparse.Namespace) -> int:
    """Print the public key."""
    from edge_runtime.config import config
    from split_model.protocol.keys import read_pair

    print(read_pair(config.load(args.config, check_server_keys=False).device.key).public.decode())
    return 0


def keys_rotate(args: argparse.Namespace) -> int:
    """Make the next key pair, and print its public key."""
    from edge_runtime.config import config
    from split_model.protocol.keys import make_next

    print(make_next(config.load(args.config, check_server_keys=False).device.key).public.decode())
    return 0


def keys_switch(args: argparse.Namespace) -> int:
    """Switch to the next key pair, once every server accepts it."""
    from edge_runtime.config import config
    from edge_runtime.daemon.device import open_link
    from edge_runtime.daemon.plan import Plan
    from edge_runtime.link.greeting import greet
    from split_model.errors import NotAllowedError, ServerUnreachableError
    from split_model.protocol.keys import read_next, switch_to_next

    device = config.load(args.config)
    fresh = read_next(device.device.key)
    if not args.untried:
        plan = Plan.of(device)
        for server in device.servers:
            with contextlib.ExitStack() as closing:
                link = open_link(plan, server, fresh, closing, boot_id=os.urandom(16).hex())
                view = greet(link, server_keys=len(server.keys))
            if not view.up:
                refused = view.trouble.exit_code == NotAllowedError.exit_code
                error = NotAllowedError if refused else ServerUnreachableError
                raise error(f"key not switched: {view.problem}", remedy=view.remedy)
    switch_to_next(device.device.key)
    print(fresh.public.decode())
    print("restart the program to use it: systemctl restart edge-runtime", file=sys.stderr)
    return 0


def ledger(args: argparse.Namespace) -> int:
    """Print the privacy ledger."""
    from edge_runtime.config import config
    from edge_runtime.daemon.plan import Plan
    from edge_runtime.privacy.ledger import read, system_now
    from edge_runtime.privacy.ledger.state import new_state
    from edge_runtime.privacy.ledger.status import Prices, ledger_status, rows, shortfalls
    from split_model.errors import SplitModelError
    from split_model.service.terminal_text import columns, labelled

    device = config.load(args.config)
    now = system_now()()
    ledger_state = read(device.device.state)
    privacy = []
    try:
        plan = Plan.of(device)
        prices, privacy = plan.prices, [("privacy", plan.privacy)]
    except SplitModelError as error:  # the spent budget can be shown without it
        log.warning("the cost of a frame is unknown: %s", error)
        prices = Prices()
    if ledger_state is None:
        lines = ["null"] if args.json else ["no ledger yet: this device has never been started"]
        short = () if args.json else shortfalls(new_state(now, since_unix_s=0), device.limits, prices)
        print("\n".join([*lines, *(f"{line}; nothing will leave this device" for line in short)]))
        return 0
    status = ledger_status(ledger_state, device.limits, now, prices)
    if args.json:
        import msgspec

        plain = {**msgspec.to_builtins(status), "servers": [server.address for server in device.servers]}
        print(msgspec.json.encode(plain).decode())
    else:
        told = [*privacy, *rows(status)]
        if len(device.servers) > 1:
            told += [("servers", server.address) for server in device.servers]
            told.append(("servers", "a release that goes to both is the same bytes, and charged once"))
        print(labelled(told, columns(sys.stdout)))
    return 0


def records(args: argparse.Namespace) -> int:
    """Print the stored answers."""
    import time

    from edge_runtime.config import config
    from edge_runtime.service.kept_records import kept_records
    from split_model.service.time_spans import span_s

    since_unix_s = None if args.last is None else time.time() - span_s("--last", args.last)
    device = config.load(args.config, check_server_keys=False)
    for line in kept_records(device, unit=f"{_SERVICE}.service", since_unix_s=since_unix_s):
        sys.stdout.buffer.write(line)
    return 0


def config_check(args: argparse.Namespace) -> int:
    """Check the config and everything it names."""
    from edge_runtime.config import config
    from edge_runtime.daemon.plan import Plan, refuse_what_cannot_change
    from edge_runtime.service import status as states
    from edge_runtime.service.cut_table import cut_lines
    from split_model.protocol.keys import read_pair
    from split_model.service import status_file
    from split_model.service.privileges import another_user, step_down
    from split_model.service.status_file import condition_now
    from split_model.service.terminal_text import columns, labelled

    device, layers = config.load_layers(args.config)
    if not args.without_key:  # only the running service can read it, by systemd
        read_pair(device.device.key)
    if another_user(_SERVICE, config=args.config, state=device.device.state):
        step_down(_SERVICE, config=args.config, state=device.device.state)
    if user := another_user(_SERVICE, config=args.config, state=device.device.state):
        log.warning("checked as this user, not as %s, who runs the program: use sudo", user)
    plan = Plan.of(device)
    if args.reload:
        running = status_file.read(_status_path(args, device), states.Status, key=states.KEY)
        if running is not None and condition_now(running) in status_file.SERVING:
            refuse_what_cannot_change(running.fixed, plan)
    plan.check()
    for line in plan.cut_lines():
        if line.level > logging.INFO:  # the table has the others
            log.log(line.level, "%s", line.text)
    reached = plan.reach_sources() if args.connect else []
    table = [] if args.reload else cut_lines(plan)  # not into the journal at each reload
    for text in (*reached, *table):
        print(text)
    rows = [("privacy", plan.privacy), *(("audit", text) for text in plan.exposure.told(plan.in_use))]
    print(labelled([*rows, ("config", f"{', '.join(map(str, layers.files))}: good")], columns(sys.stdout)))
    return 0


def config_show(args: argparse.Namespace) -> int:
    """Print every key with its effective value and origin."""
    from edge_runtime.config import config
    from edge_runtime.config.in_force import in_force
    from split_model.service.config_file import as_plain
    from split_model.service.config_show import as_json, as_toml

    device, layers = config.load_layers(args.config)
    plain = as_plain(device)
    print(as_json(plain, layers) if args.json else as_toml(plain, layers, in_force(device)))
    return 0

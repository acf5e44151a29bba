"""Runs each command of ``cloud-server``. Slow imports are made by the command that needs them."""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from cloud_server import allow_list
from cloud_server import config as configuration
from cloud_server.status import KEY, Status
from split_model.errors import BadInputError, ConfigError, MissingInputError, SplitModelError
from split_model.protocol.keys import KEY_CHARS, make_next, make_pair, read_pair, read_public, switch_to_next
from split_model.service import status_file, toml_text
from split_model.service.config_file import as_plain
from split_model.service.config_show import as_json, as_toml
from split_model.service.notify import Notifier
from split_model.service.status_file import SERVING, boot_s, condition_now, stopped_text
from split_model.service.terminal_text import columns, counted, labelled, size


def run(args: argparse.Namespace) -> None:
    """Serve until the program receives a stop signal."""
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


def status(args: argparse.Namespace) -> int:
    """Show the state of the running server; exit code 69 if it does not run."""
    try:
        config: configuration.Config | None = configuration.load(args.config)
    except ConfigError:  # a program that runs with an older config is still found in systemd's folder
        config = None
    found = status_file.read(_status_path(config, args), Status, key=KEY)
    if found is None:
        width = columns(sys.stdout)
        told = stopped_text(args.config, "cloud-server", width=width)
        print('{"condition":"stopped"}' if args.json else told)
        return os.EX_UNAVAILABLE
    condition = condition_now(found)
    if args.json:
        _print_json({"condition": condition, **msgspec.to_builtins(found)})
    else:
        print(labelled(_status_rows(found, condition, args.config), columns(sys.stdout)))
    return 0 if condition in SERVING else os.EX_UNAVAILABLE


def _status_rows(found: Status, condition: str, config: Path) -> list[tuple[str, str]]:
    """The status for people: labels and values. Counters that are zero are left out."""
    counters = found.counters
    where = "thread" if found.engine == "local" else f"replica of {counted(found.nodes, 'node')} ({found.engine})"
    plural = "" if found.engine == "local" else where.replace("replica", "replicas", 1)
    hosting = f"{counted(len(found.bundles), 'bundle')}, {counted(found.tails, 'tail')} on "
    rows = [
        (condition, f"pid {found.pid}, {found.software}, up {found.uptime_s:.0f} s"),
        ("listen", found.listen),
        ("key", found.public_key),
        ("hosting", hosting + counted(found.threads, where, plural)),
        ("devices", f"{found.devices:,} allowed, {found.peers:,} connected"),
    ]
    busy = [size(found.held_bytes)] if found.held_bytes else []
    busy += [
        f"{count:,} {name}" for count, name in ((found.queued, "waiting"), (found.running, "running")) if count
    ]
    if busy:
        rows.append(("holding", ", ".join(busy)))
    ends = ("answered", "failed", "cancelled", "dropped")
    told = ", ".join(f"{count:,} {end}" for end in ends if (count := getattr(counters, end)))
    rows.append(("requests", f"{counters.requests:,}" + (f": {told}" if told else "")))
    if refused := ", ".join(f"{code} {count:,}" for code, count in sorted(counters.refused.items()) if count):
        rows.append(("refusals", refused))
    if (statistics := found.statistics) is not None:
        trouble = f"; {statistics.lost:,} lost" * bool(statistics.lost)
        trouble += f"; {statistics.error}" * bool(statistics.error)
        rows.append(("counted", counted(statistics.counted, "codebook release") + trouble))
    for label, sink in found.sinks.items():
        trouble = f"; {sink.failed + sink.lost:,} lost" * bool(sink.failed + sink.lost)
        rows.append(("sink", f"{label}: {counted(sink.written, 'answer')} written{trouble}"))
    for key, times in found.refused_keys.items():
        rows.append(("refused", f"an unknown device, {counted(times, 'time')}; to admit it:"))
        rows.append(("refused", f"cloud-server devices allow -c {config} NAME '{key}'"))
    if found.reload_error:
        rows.append(("reload", f"REFUSED, the previous config is in force: {found.reload_error}"))
    if condition not in ("running", "stopped"):
        rows.append(("written", f"{boot_s() - found.written_boot_s:.0f} s ago"))
    return rows


def statistics(args: argparse.Namespace) -> None:
    """Show the estimates of how often each codeword was true."""
    from cloud_server.statistics.command import show

    show(configuration.load(args.config), args)


def doctor(args: argparse.Namespace) -> int:
    """Check everything the server needs and print the findings."""
    from cloud_server.doctor import examine
    from split_model.service.findings import show
    from split_model.service.privileges import step_down

    try:
        path: Path | None = _status_path(configuration.load(args.config), args)
    except SplitModelError:  # doctor reports it
        path = None
    findings = examine(args.config, path, step_down=lambda: step_down("cloud-server", config=args.config))
    return show(findings, as_json=args.json)


def _read_devices(path: Path) -> tuple[dict[str, allow_list.Entry], list[str]]:
    """Read the allow-list by key, with its faults; empty if there is no file yet."""
    try:
        return allow_list.entries(path.read_bytes(), str(path))
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        raise MissingInputError(f"{path}: {error.strerror}", remedy="run this as a user who may read it") from None


def devices_show(args: argparse.Namespace) -> int:
    """Show the fleet; exit code 69 if no server runs."""
    from cloud_server.fleet.command import show
    from cloud_server.fleet.overview import fleet_path

    config = configuration.load(args.config)
    return show(fleet_path(_status_path(config, args)), args.config, as_json=args.json, watch=args.watch)


def web_password(args: argparse.Namespace) -> None:
    """Set the password of the page."""
    from cloud_server.web import password

    path = _web_table(args).password
    text = password.made() if args.make else password.asked_for()
    password.write(path, text)
    if args.make:
        print(text)
    print("set; it is valid at once on the running server, and all sessions end", file=sys.stderr)


def web_token(args: argparse.Namespace) -> None:
    """Make the token for the metrics and print it."""
    from cloud_server.web import password

    path = _web_table(args).metrics_token
    if path is None:
        raise ConfigError(
            f"{args.config}: web.metrics_token is not set",
            remedy="set it to a file path, run this again, then restart the service",
        )
    token = password.made()
    password.write_for_service(path, token.encode() + b"\n")
    print(token)


def _web_table(args: argparse.Namespace) -> configuration.WebTable:
    table = configuration.load(args.config).web
    if table is None:
        raise ConfigError(
            f"{args.config}: no table [web], so there is no page",
            remedy="add [web] with password = FILE, and restart the server",
        )
    return table


def devices_list(args: argparse.Namespace) -> None:
    """Print the allow-list, or the revoked keys."""
    path = configuration.load(args.config).server.devices
    devices, complaints = _read_devices(allow_list.revoked_path(path) if args.revoked else path)
    if args.json:
        _print_json(
            [{"name": entry.name, "public_key": key, "weight": entry.weight} for key, entry in devices.items()]
        )
    else:
        for key, entry in devices.items():
            print(entry.name, key, *([f"weight={entry.weight}"] if entry.weight != 1 else []))
    if complaints:
        raise BadInputError("; ".join(complaints))


def devices_allow(args: argparse.Namespace) -> None:
    """Put a device on the allow-list."""
    path = Path(args.key)
    if len(args.key) != KEY_CHARS and not path.is_file():
        raise BadInputError(
            f"{args.key}: neither a public key ({KEY_CHARS} characters of Z85) nor a .pub file",
            remedy="put it in 'single quotes'",
        )
    key = args.key if len(args.key) == KEY_CHARS else read_public(path).decode()
    allow_list.allow(configuration.load(args.config).server.devices, args.name, key, weight=args.weight)
    weight = f" with weight {args.weight}" if args.weight != 1 else ""
    print(f"{args.name} may connect{weight}; a running server needs no restart")


def devices_revoke(args: argparse.Namespace) -> None:
    """Take a device off the allow-list."""
    allow_list.revoke(configuration.load(args.config).server.devices, args.name, remember=not args.forget)
    print(f"{args.name} is refused from its next message on")


def models_list(args: argparse.Namespace) -> None:
    """Print the hosted bundles and their cuts."""
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


def keys_make(args: argparse.Namespace) -> None:
    """Make the key pair and print the public key."""
    path = configuration.load(args.config).server.key
    print(make_pair(path.parent, path.stem).public.decode())


def keys_show(args: argparse.Namespace) -> None:
    """Print the public key."""
    public = read_pair(configuration.load(args.config).server.key).public.decode()
    if args.json:
        _print_json({"public_key": public})
    else:
        print(public)


def keys_rotate(args: argparse.Namespace) -> None:
    """Make the next key pair and print its public key."""
    print(make_next(configuration.load(args.config).server.key).public.decode())


def keys_switch(args: argparse.Namespace) -> None:
    """Replace the key pair by the next one."""
    print(switch_to_next(configuration.load(args.config).server.key).public.decode())
    print("restart the program to use it: systemctl restart cloud-server", file=sys.stderr)


def config_check(args: argparse.Namespace) -> None:
    """Check the config file, the allow-list and the bundles."""
    from cloud_server.reload import server_limits
    from cloud_server.tails import TailSet
    from cloud_server.web.server import check_libraries

    config = configuration.load(args.config)
    server_limits(config)
    if config.web is not None:
        check_libraries()
    if not args.without_key:
        read_pair(config.server.key)
    _, complaints = _read_devices(config.server.devices)
    if complaints:
        raise BadInputError("; ".join(complaints))
    bundles = TailSet.open(config.server.bundles).bundles.values()
    print(f"{args.config}: good; hosts {', '.join(bundle.manifest.name for bundle in bundles)}")


def config_show(args: argparse.Namespace) -> None:
    """Print every key with its effective value."""
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

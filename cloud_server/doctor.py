"""``cloud-server doctor``: checks everything that a server needs; prints faults with their remedies."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import zmq

from cloud_server import allow_list, status
from cloud_server import config as configuration
from cloud_server.config import Config, WebTable
from cloud_server.tails import TailSet
from cloud_server.web import password
from cloud_server.web.server import check_libraries
from split_model import __version__
from split_model.errors import MissingInputError, SplitModelError
from split_model.protocol.keys import read_pair
from split_model.service import status_file
from split_model.service.findings import Finding, attempt, failed, failure, good, of_clock, warning
from split_model.service.status_file import SERVING, condition_now

_CONNECT_S = 2.0


def examine(
    path: Path, status_path: Path | None, *, step_down: Callable[[], object] = lambda: None
) -> Iterator[Finding]:
    """Run all checks, in the order in which their subjects are needed.

    Args:
        path: The config file.
        status_path: The status file of the running program, if it is known.
        step_down: Called after the key is read and before any code of a bundle runs: changes from root to the
            service's
                user.

    """
    text = f"cloud-server {__version__}, Python {platform.python_version()}, {platform.machine()}, "
    yield good("software", text + f"ZeroMQ {zmq.zmq_version()}, NumPy {np.__version__}")
    yield of_clock()
    loaded: list[Config] = []

    def load() -> str:
        config, layers = configuration.load_layers(path)
        loaded.append(config)
        return ", ".join(map(str, layers.files))

    yield attempt("config", load)
    if not loaded:
        return
    config = loaded[0]
    key = _key(config)
    step_down()
    yield key
    tails: list[TailSet] = []

    def open_tails() -> str:
        tails.append(TailSet.open(config.server.bundles))
        names = ", ".join(bundle.manifest.name for bundle in tails[0].bundles.values())
        return f"{len(tails[0].tails)} tails of {names or 'no bundle'}"

    yield attempt("bundles", open_tails)
    if tails:
        yield attempt("backend", lambda: _run_once(tails[0], config.server.tail_threads))
        yield _memory(tails[0], config)
    yield _devices(config)
    if config.web is not None:
        yield attempt("page", partial(_page, config.web))
    yield _program(config, status_path)


def _key(config: Config) -> Finding:
    path = config.server.key
    try:
        return good("key", f"{path}, public key {read_pair(path).public.decode()}")
    except MissingInputError as error:
        if path.exists():
            return warning("key", f"{path}: this user may not read it", "run doctor with sudo")
        return failed("key", error, remedy="cloud-server keys make")
    except SplitModelError as error:
        return failed("key", error)


def _run_once(tails: TailSet, threads: int) -> str:
    for tail in tails.tails.values():
        interpreter = tail.load(tail.read(), threads=threads)
        interpreter.run([np.zeros(spec.shape, spec.dtype) for spec in interpreter.inputs])
    return f"every tail loads and runs, {interpreter.backend}" if tails.tails else "nothing to run"


def _memory(tails: TailSet, config: Config) -> Finding:
    """Check the memory: tails take three times their files; idle ones are dropped above `tail_cache_mib`."""
    files = sum(tail.cut.tail.size_bytes for tail in tails.tails.values())
    needed = min(files * config.server.threads * 3, config.limits.tail_cache_mib << 20)
    available = psutil.virtual_memory().available
    text = f"{available / 1e6:.0f} MB available; the tails of {config.server.threads} threads take about "
    text += f"{needed / 1e6:.0f} MB"
    if needed > available:
        return warning("memory", text, "lower server.threads or limits.tail_cache_mib, or host fewer bundles")
    return good("memory", text)


def _page(table: WebTable) -> str:
    """Check that the page can be served, and that a user can log in."""
    check_libraries()
    password.read(table.password)
    scheme = "https" if table.has_tls else "http"
    if table.metrics_token is None:
        return f"{scheme}://{table.listen}, with a password"
    password.read(table.metrics_token, make="web token")
    return f"{scheme}://{table.listen}, with a password and a token for metrics"


def _devices(config: Config) -> Finding:
    path = config.server.devices
    remedy = "cloud-server devices allow NAME 'KEY', with what 'edge-runtime keys show' prints on the board"
    try:
        devices, complaints = allow_list.parse(path.read_bytes(), str(path))
    except FileNotFoundError:
        return warning("devices", f"{path}: not there, so nobody may connect", remedy)
    except OSError as error:
        return failure("devices", f"{path}: {error.strerror}", "let the server's user read it",
                       exit_code=os.EX_NOPERM)  # fmt: skip
    if complaints:
        return warning("devices", "; ".join(complaints), "correct those lines, or revoke and allow again")
    if not devices:
        return warning("devices", f"{path}: nobody may connect", remedy)
    return good("devices", f"{len(devices)} allowed")


def _program(config: Config, path: Path | None) -> Finding:
    """Check the running program or, if it is stopped, whether its port is free."""
    look = "systemctl status cloud-server; journalctl -u cloud-server"
    condition = "not running"
    if path is not None:
        try:
            found = status_file.read(path, status.Status, key=status.KEY)
        except SplitModelError as error:
            return warning("program", error.problem, error.remedy)
        if found is not None:
            condition = condition_now(found)
            if condition in SERVING:
                if found.reload_error:
                    return warning("program", f"the changed config was refused: {found.reload_error}",
                                   "mend it, then systemctl reload cloud-server")  # fmt: skip
                refused = len(found.refused_keys)
                text = f"{condition} at {found.listen}, {found.peers} devices connected"
                if refused:
                    return warning("program", f"{text}; {refused} unknown keys were refused",
                                   "cloud-server status shows how to admit them")  # fmt: skip
                return good("program", text)
    host, _, port = config.server.listen.removeprefix("tcp://").rpartition(":")
    if port != "0" and _taken(host.strip("[]"), int(port)):
        return failure("program", f"{condition}, but another program listens on port {port}",
                       "stop that one, or change server.listen")  # fmt: skip
    return warning("program", condition, f"systemctl start cloud-server; {look}")


def _taken(host: str, port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1" if host in ("0.0.0.0", "*") else host, port), _CONNECT_S):  # noqa: S104
            return True
    except OSError:
        return False

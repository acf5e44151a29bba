"""The running server's state in a small JSON file: written by ``run``, read by ``status`` and by anybody else."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from cloud_server.counters import Counters
from split_model.errors import BadInputError, MissingInputError, OutputError

State = Literal["running", "draining", "stopped"]

#: ``run`` writes it this often; one that is much older belongs to a server that hangs.
WRITE_EVERY_S = 1.0
_STALE_S = 10.0


class Status(msgspec.Struct, kw_only=True):
    """What ``status --json`` prints; ``written_unix_s`` and ``process_unix_s`` are of the system clock."""

    state: State
    pid: int
    process_unix_s: float
    written_unix_s: float
    uptime_s: float
    software: str
    listen: str
    public_key: str
    bundles: dict[str, str]
    tails: int
    threads: int
    devices: int
    peers: int
    queued: int
    running: int
    held_bytes: int
    counters: Counters
    refused_keys: dict[str, int]


def process_started(pid: int) -> float | None:
    """When a process started (system clock), or None where there is none; tells a reused pid from ours."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def write(path: Path, status: Status) -> None:
    """Replace the file at once, so that no reader sees half of it. `OutputError` where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(msgspec.json.encode(status) + b"\n")
            Path(scratch).replace(path)
        except OSError:
            Path(scratch).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}; set [server] status to a file that can be written") from None


def read(path: Path) -> Status:
    """Read the file that `write` wrote."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Status)
    except OSError as error:
        raise MissingInputError(f"{path}: {error.strerror}; no server has run with this config") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: not a status file: {error}; is [server] status another file?") from None


def condition(status: Status, *, now_unix_s: float, process_unix_s: float | None) -> str:
    """One word for how the server is: running, draining, stopped, hanging (alive, but silent) or dead."""
    if status.state == "stopped":
        return "stopped"
    if process_unix_s is None or abs(process_unix_s - status.process_unix_s) > 1.0:
        return "dead"
    return "hanging" if now_unix_s - status.written_unix_s > _STALE_S else status.state


def condition_now(status: Status) -> str:
    """`condition` as of now, on this machine."""
    return condition(status, now_unix_s=time.time(), process_unix_s=process_started(status.pid))

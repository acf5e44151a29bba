"""The status file, a small JSON file: written by ``run``, read by ``status`` and other programs.

The boot clock and the process's start in ticks show the age of the file and whether its writer still runs: the wall
clock of a board without a battery jumps by years when the network comes up.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TypeVar

import msgspec

from split_model.errors import BadInputError, MissingInputError, NotAllowedError, OutputError
from split_model.service.atomic_file import write_atomically
from split_model.service.terminal_text import labelled

log = logging.getLogger(__name__)

T = TypeVar("T", bound="Written")

#: Conditions of a working program.
SERVING = frozenset({"running", "reloading", "draining"})
#: Seconds between two writes by ``run``; a much older file belongs to a program that hangs.
WRITE_EVERY_S = 1.0
_STALE_S = 10.0
#: Index in /proc/PID/stat after the closing bracket of the name: field 22, counted from field 3.
_START_TICKS = 22 - 3


class Written(msgspec.Struct, kw_only=True):
    """Common fields of status files. ``written_boot_s``: seconds since boot; ``written_unix_s``: for display."""

    state: str
    pid: int
    process_ticks: int
    written_boot_s: float
    written_unix_s: float
    uptime_s: float
    software: str


def boot_s() -> float:
    """The boot clock, suspend included; it cannot be set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def process_ticks(pid: int) -> int | None:
    """Start of a process in ticks since the boot, None if there is none. (Pids are reused.)"""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
        return int(stat.rpartition(")")[2].split()[_START_TICKS])
    except (OSError, IndexError, ValueError):
        return None


def find(name: str, configured: Path | None, config: Path, *, runtime_directory: str | None, service: Path) -> Path:
    """Find the status file ``name``: as configured, else in systemd's runtime folder, else beside the config.

    ``runtime_directory``: from systemd, for the service itself; other processes use the default of ``service``.
    """
    if configured is not None:
        return configured
    if runtime_directory:
        return Path(runtime_directory.split(":")[0]) / name
    beside = config.absolute().parent / name
    return service / name if service.is_dir() and not beside.exists() else beside


def write(path: Path, status: Written, *, key: str) -> None:
    """Replace the file atomically, so that no reader sees half of it. `OutputError` if it cannot be written.

    ``key``: the config key of its path, for the error.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, msgspec.json.encode(status) + b"\n", durable=False)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}", remedy=f"set {key} to a file that can be written") from None


class Publisher:
    """Writes a program's status file. A failure is logged once, and does not stop the program."""

    def __init__(self, path: Path, *, key: str) -> None:
        self._path = path
        self._key = key
        self._complained = False

    def publish(self, status: Written) -> None:
        """See `write`."""
        try:
            write(self._path, status, key=self._key)
            self._complained = False
        except OutputError as error:
            if not self._complained:
                log.warning("%s", error)
            self._complained = True


def read(path: Path, type: type[T], *, key: str) -> T | None:  # noqa: A002  (the word msgspec uses)
    """Read the file that `write` wrote.

    Returns:
        The status, or None without a file: the program was never started, or systemd stopped the service and
        removed its
                runtime folder.

    Raises:
        NotAllowedError: This user may not read it.
        BadInputError: It is not a status file.

    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=type)
    except PermissionError:
        raise NotAllowedError(
            f"{path}: permission denied", remedy="join the service's group, or use sudo"
        ) from None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise MissingInputError(
            f"{path}: {error.strerror}", remedy=f"set {key} to a path that nothing else uses"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInputError(
            f"{path}: not a status file: {error}", remedy=f"set {key} to a path that nothing else uses"
        ) from None


def condition(status: Written, *, now_boot_s: float, ticks: int | None) -> str:
    """The condition of a program in one word: its own, or hanging (alive, but silent), or dead.

    ``ticks``: the start of the process that now has its pid.
    """
    if status.state == "stopped":
        return "stopped"
    if ticks is None or ticks != status.process_ticks or status.written_boot_s > now_boot_s:
        return "dead"
    return "hanging" if now_boot_s - status.written_boot_s > _STALE_S else status.state


def stopped_text(config: Path, service: str, *, width: int | None = None) -> str:
    """The lines for people about a program that does not run. ``service``: the name of its unit."""
    rows = [("stopped", f"nothing runs with {config}"), ("start", start_command(config, service))]
    return labelled([*rows, ("start", "or name another config with -c")], width)


def is_installed(service: str) -> bool:
    """Whether a program is a service of this machine."""
    return Path(f"/etc/systemd/system/{service}.service").exists()


def start_command(config: Path, service: str) -> str:
    """What starts a program on this machine."""
    return f"sudo systemctl start {service}" if is_installed(service) else f"{service} run -c {config}"


def condition_now(status: Written) -> str:
    """The present `condition` on this machine."""
    return condition(status, now_boot_s=boot_s(), ticks=process_ticks(status.pid))

"""A view of fleet and server for the page, the metrics and ``cloud-server devices``.

Other threads than the gateway's read it, so it returns copies only.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from cloud_server.fleet.answer_times import AnswerTimes
from cloud_server.fleet.rows import Row, row_of, rows
from cloud_server.fleet.state import Fleet, Known
from cloud_server.status import KEY, Status
from split_model import __version__
from split_model.errors import OutputError
from split_model.service import status_file
from split_model.service.atomic_file import write_atomically
from split_model.service.status_file import Written, boot_s, process_ticks
from split_model.service.stoppable_thread import StoppableThread

_log = logging.getLogger(__name__)

#: Seconds between two writes of the table's file.
WRITE_EVERY_S = 2.0
#: Mode of the table's file, for the service's user and group only: it shows the same as the page behind its login.
_MODE = 0o640


class Overview:
    """The view of fleet and server.

    Attributes:
        fleet: The devices' reports.
        times: The answer times of the server.

    """

    def __init__(
        self,
        *,
        names: Callable[[], Mapping[str, str]],
        status: Callable[[], Status | None],
        clock: Callable[[], float],
    ) -> None:
        self.fleet = Fleet()
        self.times = AnswerTimes()
        self._names = names
        self._status = status
        self._clock = clock

    @property
    def status(self) -> Status | None:
        """The last status of the server; None before the first."""
        return self._status()

    @property
    def now_s(self) -> float:
        """The present time, on the clock of all times here."""
        return self._clock()

    def rows(self) -> list[Row]:
        """The fleet's table as of now."""
        return rows(self._names(), self.fleet.all_known(), self.bundles, self._clock())

    def device(self, name: str) -> tuple[Row, Known] | None:
        """Return the device of this name with its history; None if there is no such device."""
        for key, known_name in self._names().items():
            if known_name == name:
                known = self.fleet.known(key)
                return row_of(key, name, known, self.bundles, self._clock()), known
        return None

    @property
    def bundles(self) -> Mapping[str, str]:
        """Names of the hosted bundles, by identity."""
        status = self._status()
        return {} if status is None else status.bundles


class FleetFile(Written, kw_only=True):
    """The content of the table's file, which ``cloud-server devices`` reads."""

    rows: list[Row]


def fleet_path(status_path: Path) -> Path:
    """Path of the table's file, beside the server's status file."""
    return status_path.with_name(f"{status_path.name.removesuffix('.json').removesuffix('.status')}.devices.json")


def read(path: Path) -> FleetFile | None:
    """Read the table of a running server; None if there is none. Raises as `status_file.read`."""
    return status_file.read(path, FleetFile, key=KEY)


class FleetWriter:
    """A thread that writes the table's file every few seconds."""

    def __init__(self, path: Path, overview: Overview) -> None:
        self._path = path
        self._overview = overview
        self._ticks = process_ticks(os.getpid()) or 0
        self._complained = False
        self._started_s = time.monotonic()
        self._thread = StoppableThread("fleet", self._run)

    def start(self) -> None:
        """Start the thread."""
        self._write("running")
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and write that the server is stopped."""
        if self._thread.stop():
            self._write("stopped")

    def _run(self) -> None:
        while not self._thread.stopping.wait(WRITE_EVERY_S):
            self._write("running")

    def _write(self, state: str) -> None:
        content = FleetFile(
            state=state,
            pid=os.getpid(),
            process_ticks=self._ticks,
            written_boot_s=boot_s(),
            written_unix_s=time.time(),
            uptime_s=time.monotonic() - self._started_s,
            software=f"cloud-server {__version__}",
            rows=self._overview.rows(),
        )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, msgspec.json.encode(content) + b"\n", mode=_MODE, durable=False)
            self._complained = False
        except OSError as error:  # the server goes on without it; it is logged once
            if not self._complained:
                _log.warning("%s", OutputError(f"{self._path}: {error.strerror}", remedy=f"set {KEY}"))
            self._complained = True

"""Sends reports to the server, and writes the metrics file, at regular times.

The time of a report depends only on the clock: not on a frame, nor on the report's content.
"""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edge_runtime.service import metrics_file
from edge_runtime.service.device_report import report_of
from edge_runtime.service.status import Status
from split_model.interpreter import choose_backend
from split_model.protocol import messages as wire

log = logging.getLogger(__name__)


class Table(Protocol):
    """The keys of ``[report]`` that are used here."""

    @property
    def enabled(self) -> bool:
        """Whether reports are sent to the server."""

    @property
    def period_s(self) -> float:
        """Seconds between two reports."""

    @property
    def textfile(self) -> Path | None:
        """The file for node_exporter."""


class FleetReports:
    """Makes the reports; call `tell` with each status. ``now``: monotonic seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._due_s = -math.inf
        self._complained = False

    def tell(
        self, status: Status, table: Table, *, paced: bool, backend: str | None, send: Callable[[wire.Report], bool]
    ) -> None:
        """Make a report of this status, if it is time to.

        Args:
            status: The program's status.
            table: The config's ``[report]``.
            paced: Whether numbers of frames are independent of their content (``release.pace = "fixed"``).
            backend: The configured backend.
            send: Gives the report to the links; returns whether a server accepts reports.

        """
        now_s = self._now()
        if now_s < self._due_s or not (table.enabled or table.textfile):
            return
        report = report_of(
            status,
            period_s=table.period_s,
            exact=paced,
            python=platform.python_version(),
            backend=choose_backend(backend),
        )
        if report is None:
            return
        link_up = any(link.up for link in status.links) or (status.link is not None and status.link.up)
        sent = table.enabled and link_up and send(report)
        if table.textfile is not None:
            self._write(table.textfile, report, link_up=link_up)
        elif not sent:
            return  # retry with the next status, so that a device that reconnects is seen at once
        self._due_s = now_s + table.period_s

    def _write(self, path: Path, report: wire.Report, *, link_up: bool) -> None:
        try:
            metrics_file.write(path, report, link_up=link_up)
            self._complained = False
        except OSError as error:
            if not self._complained:
                log.warning(
                    "report.textfile %s: %s; make the folder, and let this program write to it",
                    path,
                    error.strerror,
                )
            self._complained = True

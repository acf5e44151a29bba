"""The kind ``jsonl``: appends one line of JSON for each answer to a file; incomplete lines are removed."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from cloud_server.sinks.sink import Sink, SinkTable
from split_model.errors import OutputError


class JsonlTable(SinkTable, frozen=True, tag="jsonl"):
    """Answers as lines of JSON in ``path``.

    The file may be renamed at any time, as logrotate does: the next line goes into a new one.
    """

    path: Path

    def open(self) -> JsonLines:
        """Open the file."""
        return JsonLines(self.path)


class JsonLines(Sink):
    """See `JsonlTable`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = self._open()

    def write(self, topic: tuple[str, ...], record: bytes) -> None:  # noqa: ARG002
        """Append one line."""
        if self._renamed():
            os.close(self._file)
            self._file = self._open()
        line = memoryview(record + b"\n")
        written = 0
        try:
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError as error:
            with contextlib.suppress(OSError):  # remove half a line; the first error is reported
                status = os.fstat(self._file)
                if written and stat.S_ISREG(status.st_mode):
                    os.ftruncate(self._file, status.st_size - written)
            raise OutputError(f"{self._path}: {error.strerror}", remedy="make room on its disk") from None

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            os.close(self._file)

    def _open(self) -> int:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        except OSError as error:
            remedy = "set sink.path to a file the server may write"
            raise OutputError(f"{self._path}: {error.strerror}", remedy=remedy) from None

    def _renamed(self) -> bool:
        try:
            there = self._path.stat()
        except OSError:
            return True
        ours = os.fstat(self._file)
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

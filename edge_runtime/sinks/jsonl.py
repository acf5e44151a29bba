"""The kind ``jsonl``: one JSON line for each record, written at once, so that a reader can follow live."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec

from edge_runtime.local_api import framing
from edge_runtime.sinks.long_answers import ValueFiles
from edge_runtime.sinks.sink import Sink, SinkTable
from split_model.answers.lines import shortened
from split_model.arrays import Array
from split_model.errors import OutputError
from split_model.service.writable import why_no_file


class JsonlTable(SinkTable, frozen=True, tag="jsonl"):
    """Records as JSON lines, appended to ``path`` or written to standard output.

    ``values``: a folder for values too long for a line; default: beside ``path``, and none for standard output.
    It holds at most ``values_mib``: the oldest files are deleted first.
    """

    path: Path | None = None
    values: Path | None = None
    values_mib: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 64

    keeps: ClassVar[bool] = True

    def check(self) -> None:
        """Check that the program's user can make or append to the file."""
        if self.path is not None and (reason := why_no_file(self.path, made_later=framing.RUNTIME_FOLDER)):
            raise OutputError(
                f"sink {self.label}: {self.path}: {reason}",
                remedy="set sink.path to a file that the program's user can write",
            )

    def open(self) -> JsonLines:
        """Open the file, or standard output."""
        folder = self.values
        if folder is None and self.path is not None:
            folder = self.path.with_name(f"{self.path.name}.values")
        return JsonLines(
            self.path, None if folder is None else ValueFiles(folder, most_bytes=self.values_mib << 20)
        )


class JsonLines(Sink):
    """Appends records to a file, or writes them to standard output. An incomplete record is removed."""

    def __init__(self, path: Path | None, values: ValueFiles | None = None) -> None:
        self._values = values
        self._name = str(path or "standard output")
        self._owned = path is not None
        self._encoder = msgspec.json.Encoder()
        if path is None:
            self._file = sys.stdout.fileno()
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise OutputError(f"{path}: {error.strerror}", remedy="set sink.path to a file you can write") from None

    def write(self, record: Mapping[str, Any], outputs: Sequence[Array] = ()) -> None:
        """Write one record; `OutputError` if it cannot be written, for example on a full disk."""
        record = shortened(record) if self._values is None else self._values.take(record, outputs)
        line = self._encoder.encode(record) + b"\n"
        written = 0
        try:
            written = os.write(self._file, line)
            while written < len(line):
                written += os.write(self._file, line[written:])
        except BrokenPipeError:
            raise
        except OSError as error:
            self._take_back(written)
            raise OutputError(
                f"{self._name}: {error.strerror}", remedy="make room, or set sink.path elsewhere"
            ) from None

    def close(self) -> None:
        """Close the file; standard output stays open."""
        if not self._owned:
            return
        try:
            os.close(self._file)
        except OSError as error:
            raise OutputError(f"{self._name}: {error.strerror}", remedy="check its disk") from None

    def _take_back(self, written: int) -> None:
        """Remove an incomplete line, which would make the file unreadable."""
        with contextlib.suppress(OSError):  # the disk fails; its first error is reported
            status = os.fstat(self._file)
            if written and stat.S_ISREG(status.st_mode):
                os.ftruncate(self._file, status.st_size - written)

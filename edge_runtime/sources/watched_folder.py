"""The kind ``watch``: a folder into which others put pictures or ``.npz`` files; each is answered once.

The folder is read every ``poll_s``, which takes about 9 µs per file on a workstation and works on every file
system. A file is taken when it has not changed for ``settle_s``. A file that is still being written then does not
decode, as all formats that we read mark their end; it gets ten seconds more before that is an error.

Answered files are recorded in the device's state folder, after the sinks have the answers: a restart answers no
file twice and misses none. A crash or a power cut may repeat the last answers, but never lose one.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec.structs import replace

from edge_runtime.sources.answered_files import AnsweredFiles, SetAsideError, Stamp
from edge_runtime.sources.files_under_way import FilesUnderWay, GivenFile, stamp_of
from edge_runtime.sources.input_files import InputFiles
from edge_runtime.sources.source import Answer, Frame, Source, SourceTable, Wanted
from split_model.errors import BadInputError, MissingInputError
from split_model.features.data import BadSampleError, Data, open_data, spelled
from split_model.features.preprocess import load_placed

log = logging.getLogger(__name__)

_UNREADABLE_S = 10.0
_NAP_S = 0.2


class WatchTable(SourceTable, frozen=True, tag="watch"):
    """Files that appear in the folder ``path``, oldest first; without sub-folders and hidden files.

    ``after``: ``keep`` the files and remember them, or ``delete`` each once it is answered. Those that could not be
    read, or on which the model failed, are kept and remembered in any case.
    """

    path: Path
    poll_s: Annotated[float, msgspec.Meta(ge=0.01, le=3600.0)] = 0.5
    settle_s: Annotated[float, msgspec.Meta(ge=0.0, le=3600.0)] = 1.0
    after: Literal["keep", "delete"] = "keep"

    def check(self, wanted: Wanted) -> None:  # noqa: ARG002  of any model
        """Check that the folder exists and this user may read it."""
        if not self.path.is_dir():
            raise MissingInputError(
                f"source {self.label}: {self.path}: no such folder",
                remedy="make the folder, or set path to another one",
            )
        if not os.access(self.path, os.R_OK | os.X_OK | (os.W_OK if self.after == "delete" else 0)):
            needed = "read it and delete from it" if self.after == "delete" else "read it"
            raise MissingInputError(
                f"source {self.label}: {self.path}: no permission to {needed}",
                remedy="give this user the permission, or set path to another folder",
            )

    def open(self, wanted: Wanted) -> WatchedFolder:
        """Open the source with the record of answered files."""
        self.check(wanted)
        name = hashlib.sha256(os.fsencode(self.path.absolute())).hexdigest()[:16]
        remembered = AnsweredFiles(wanted.state / f"watched-{name}.jsonl")
        return WatchedFolder(self, wanted, FilesUnderWay(self.path, self.label, self.after, remembered))


class WatchedFolder(Source):
    """Frames of one folder. ``files``: answered ones. ``unreadable``: those with an error.

    ``vanished``: files that disappeared before they were answered. ``passed_over``: files that are not inputs; the
    log names each ending once.
    """

    on_demand = True
    waits_for_sinks = True

    def __init__(
        self,
        table: WatchTable,
        wanted: Wanted,
        files: FilesUnderWay,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._table = table
        self._wanted = wanted
        self._files = files
        self._now = now
        self._sleep = sleep
        self._seen: dict[str, tuple[Stamp, float]] = {}  # the time since when it is unchanged
        self._unreadable: dict[str, tuple[Stamp, float]] = {}
        self._counts = {"unreadable": 0, "vanished": 0, "passed_over": 0}
        self._inputs = InputFiles(table.path, table.label, pictures=wanted.preprocess is not None)
        self._told = ""
        self._is_replaced = False

    def frames(self, stopped: Callable[[], bool]) -> Iterator[Frame]:
        """Yield the files' frames as they come, until stopped."""
        while not stopped():
            looked_s = self._now()
            self._files.delete()
            found = self._look()
            if stopped():  # the reading may have hung, and another thread may have replaced this one
                return
            for name, stamp in [] if found is None else self._ready(found, looked_s):
                if stopped():
                    return
                for frame in self._frames_of(name, stamp, looked_s):
                    yield frame
                    if stopped():
                        return
                self._files.delete()
            while not stopped() and (rest_s := looked_s + self._table.poll_s - self._now()) > 0:
                self._sleep(min(rest_s, _NAP_S))

    def answered(self, answer: Answer) -> None:
        """Remember or delete a file once all its samples are answered."""
        self._files.answered(answer.frame.ticket, failed=bool(answer.frame.error) or "error" in answer.record)

    def unkept(self, answer: Answer) -> None:
        """Read the file again later."""
        self._files.unkept(answer.frame.ticket)

    @property
    def trouble(self) -> str:
        """Why the folder cannot be read, or empty."""
        return self._told and f"{self._table.path}: {self._told}; waiting for it"

    def renewed(self) -> WatchedFolder:
        """Make a successor with the same files under way."""
        self._is_replaced = True
        return WatchedFolder(self._table, self._wanted, self._files, now=self._now, sleep=self._sleep)

    def counters(self) -> dict[str, int]:
        """See the class."""
        return {"files": self._files.finished, **self._counts}

    def close(self) -> None:
        """Delete answered files if wanted, and record how much of the present file is answered."""
        self._files.delete()
        self._files.close()

    def _ready(self, found: dict[str, Stamp], now_s: float) -> list[tuple[str, Stamp]]:
        """Files that seem complete and are not answered, oldest first."""
        busy = self._files.busy(found.keys(), now_s)
        ready = []
        for name, stamp in found.items():
            before = self._seen.get(name)
            since_s = now_s if before is None or before[0] != stamp else before[1]
            self._seen[name] = (stamp, since_s)
            settled = now_s - since_s >= self._table.settle_s
            if not settled or name in busy or self._files.remembered.done(name, stamp) is None:
                continue
            if self._inputs.is_input(name, stamp):
                ready.append((name, stamp))
        self._counts["passed_over"] += self._inputs.tell_passed_over()
        self._seen = {name: seen for name, seen in self._seen.items() if name in found}
        self._inputs.keep_only(found)
        self._unreadable = {name: seen for name, seen in self._unreadable.items() if name in found}
        return sorted(ready, key=lambda file: (file[1][1], file[0]))

    def _look(self) -> dict[str, Stamp] | None:
        found = {}
        try:
            with os.scandir(self._table.path) as entries:
                for entry in entries:
                    if entry.name[0] == ".":
                        continue
                    with contextlib.suppress(FileNotFoundError):  # it disappeared meanwhile
                        if entry.is_file():
                            found[entry.name] = stamp_of(entry.stat())
        except OSError as error:
            self._away(error)
            return None
        self._told = ""
        return found

    def _away(self, error: OSError) -> None:
        """Note that the folder cannot be read; it may be on a disk that comes back."""
        told = error.strerror or str(error)
        if self._told != told:
            log.warning("source %s: %s: %s; waiting for it", self._table.label, self._table.path, told)
        self._told = told

    def _frames_of(self, name: str, stamp: Stamp, now_s: float) -> Iterator[Frame]:
        file = GivenFile(name, stamp)
        start = file.given = file.answered = self._files.remembered.done(name, stamp) or 0
        try:
            for frame, is_last in self._read(file, start=start):
                self._files.give(file, whole=is_last)
                try:
                    yield frame
                except GeneratorExit:
                    if self._is_replaced:
                        self._files.not_given(file)
                    raise
        except (BadInputError, MissingInputError) as error:
            if isinstance(error, MissingInputError) and not os.access(self._table.path / name, os.F_OK):
                self._counts["vanished"] += 1
                return
            aside = isinstance(error, SetAsideError)
            if file.given == start and not aside and not self._is_hopeless(file, now_s):
                return
            self._counts["unreadable"] += 1
            self._files.give(file, whole=True)
            yield Frame(0, spelled(name), (), None, now_s, error=spelled(str(error)), ticket=file)
        self._files.whole(file)

    def _is_hopeless(self, file: GivenFile, now_s: float) -> bool:
        """Whether a file that does not decode has had enough time to be completed."""
        failed = self._unreadable.get(file.name)
        if failed is None or failed[0] != file.stamp:
            self._unreadable[file.name] = (file.stamp, now_s)
            return False
        return now_s - failed[1] >= _UNREADABLE_S

    def _read(self, file: GivenFile, *, start: int) -> Iterator[tuple[Frame, bool]]:
        """Yield frames, each with whether it is the file's last."""
        path = self._table.path / file.name
        wanted, now_s = self._wanted, self._now()
        if path.suffix.lower() != ".npz" and wanted.preprocess is not None:
            with self._files.remembered.reading(file.name, file.stamp):
                tensor, placement = load_placed(path, wanted.preprocess, wanted.inputs[0])
            yield Frame(0, spelled(file.name), (tensor,), None, now_s, ticket=file, placement=placement), True
            return
        with self._files.remembered.reading(file.name, file.stamp):
            data: Data = open_data(path, wanted.inputs, wanted.preprocess)
        samples = iter(data)
        for number in range(len(data)):
            is_last = number == len(data) - 1
            try:
                with self._files.remembered.reading(file.name, file.stamp):
                    sample = next(samples)
            except BadSampleError as error:
                file.failed = True  # includes samples that were answered before a restart
                if number >= start:
                    why = spelled(str(error))
                    yield Frame(0, error.name, (), None, now_s, error=why, ticket=file), is_last
                continue
            if number >= start:
                frame = Frame(0, sample.name, sample.tensors, sample.label, now_s, ticket=file)
                yield replace(frame, placement=sample.placement), is_last

"""Tracks the files of a watched folder from their reading until they are remembered or deleted.

It outlives the thread that reads the folder: if that thread hangs, the one that replaces it uses the same state.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime.sources.answered_files import AnsweredFiles, Stamp

log = logging.getLogger(__name__)

#: Pause in seconds before a file whose answer was not stored is read again: the first and the longest.
_PROBE_S = (30.0, 600.0)


@dataclass(eq=False)
class GivenFile:
    """A file under way. ``given`` and ``answered`` count its samples, those of earlier runs included.

    ``whole``: all samples were given. ``finished``: all are answered and recorded. ``failed``: one of its samples
    failed.
    """

    name: str
    stamp: Stamp
    given: int = 0
    answered: int = 0
    whole: bool = False
    finished: bool = False
    failed: bool = False


class FilesUnderWay:
    """The files under way. Thread-safe; changes the folder only in `delete`, in the folder's own thread.

    Args:
        folder: Where the files lie.
        label: The source, for the log.
        after: What to do with an answered file: keep or delete it.
        remembered: The record of answered files; only `FilesUnderWay` writes to it.

    """

    def __init__(
        self, folder: Path, label: str, after: Literal["keep", "delete"], remembered: AnsweredFiles
    ) -> None:
        self.remembered = remembered
        self.finished = 0
        self._folder = folder
        self._label = label
        self._after = after
        self._guard = threading.Lock()
        self._files: dict[str, GivenFile] = {}
        self._unkept: dict[str, None] = {}  # in order
        self._probe_pause_s = _PROBE_S[0]
        self._probe_at_s: float | None = None
        self._to_delete: deque[GivenFile] = deque()

    def busy(self, found: AbstractSet[str], now_s: float) -> set[str]:
        """Names of files not to read now. Files that are no longer ``found`` are removed from the record.

        While sinks store no answers, a file is tried only now and then: each attempt costs time and privacy budget.
        """
        with self._guard:
            self._unkept = {name: None for name in self._unkept if name in found}
            if self._unkept and self._probe_at_s is None:
                self._probe_at_s = now_s + self._probe_pause_s
                self._probe_pause_s = min(2 * self._probe_pause_s, _PROBE_S[1])
            if self._unkept and self._probe_at_s is not None and now_s >= self._probe_at_s:
                self._probe_at_s = None
                del self._unkept[next(iter(self._unkept))]
            if found:  # an empty folder probably means that a disk is not mounted
                self.remembered.keep_only(found)
            return {*self._files, *self._unkept, *(file.name for file in self._to_delete)}

    def give(self, file: GivenFile, *, whole: bool) -> None:
        """Note that a sample is given, the last one if ``whole``.

        Both are noted in one step: otherwise the answer to the sample before could finish the file too early.
        """
        with self._guard:
            self._files[file.name] = file
            file.given += 1
            file.whole = whole

    def whole(self, file: GivenFile) -> None:
        """Note that no more samples of a file will be given."""
        with self._guard:
            file.whole = True
            self._finish(file)

    def not_given(self, file: GivenFile) -> None:
        """Take the last sample back, as its thread hung and it was not taken: the file will be read again."""
        with self._guard:
            if self._files.get(file.name) is file and not file.finished:
                del self._files[file.name]
                file.finished = True

    def answered(self, file: GivenFile, *, failed: bool) -> None:
        """Note that a sample is answered and every sink has the answer."""
        with self._guard:
            self._unkept.clear()
            self._probe_pause_s, self._probe_at_s = _PROBE_S[0], None
            file.answered += 1
            file.failed = file.failed or failed
            self._finish(file)

    def unkept(self, file: GivenFile) -> None:
        """Note that an answer was not stored: the file is read again once sinks store answers."""
        with self._guard:
            self._files.pop(file.name, None)
            file.finished = True
            self._unkept[file.name] = None

    def delete(self) -> None:
        """Delete answered files; those that cannot be deleted are remembered."""
        while self._to_delete:
            file = self._to_delete[0]
            deleted = self._delete(file)
            with self._guard:
                if not deleted:
                    self.remembered.note(file.name, file.stamp, None)
                if self._to_delete and self._to_delete[0] is file:
                    self._to_delete.popleft()

    def close(self) -> None:
        """Record how many samples of the present file are answered."""
        with self._guard:
            for file in self._files.values():
                if file.answered == file.given > 0:
                    self.remembered.note(file.name, file.stamp, file.answered)

    def _finish(self, file: GivenFile) -> None:
        """Finish a file. Call it under the guard."""
        if file.finished or not file.whole or file.answered < file.given:
            return
        file.finished = True
        self._files.pop(file.name, None)
        self.finished += 1
        if self._after == "delete" and not file.failed:
            self._to_delete.append(file)  # not here, in the frame loop's thread: the file system may hang
        else:
            self.remembered.note(file.name, file.stamp, None)

    def _delete(self, file: GivenFile) -> bool:
        path = self._folder / file.name
        try:
            # A file renamed into its place is another file, not yet answered. A race of microseconds remains: Linux
            # cannot # unlink a file only if it is still the same.
            if stamp_of(path.stat()) == file.stamp:
                path.unlink()
        except FileNotFoundError:
            return True
        except OSError as error:
            log.warning("source %s: %s: %s; remembered instead", self._label, file.name, error.strerror)
            return False
        return True


def stamp_of(status: os.stat_result) -> Stamp:
    """The stamp of a file: a new file of the same name has another stamp."""
    return status.st_size, status.st_mtime_ns

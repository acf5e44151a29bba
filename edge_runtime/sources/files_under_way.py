"""The files of a watched folder from the moment they are given until they are remembered or deleted.

It outlives the thread that reads the folder: one that hangs is replaced, and the next one knows all of this.
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

#: The pause before a file is given again whose answer was not kept: at first, and the longest.
_PROBE_S = (30.0, 600.0)


@dataclass(eq=False)
class GivenFile:
    """A file that is being answered. ``given`` and ``answered`` samples, the remembered ones among them.

    ``whole``: no more will be given. ``finished``: all is answered, and noted. ``failed``: one of its samples was.
    """

    name: str
    stamp: Stamp
    given: int = 0
    answered: int = 0
    whole: bool = False
    finished: bool = False
    failed: bool = False


class FilesUnderWay:
    """Safe from any thread. Touches the folder only in `delete`, which the folder's own thread calls.

    Args:
        folder: Where the files lie.
        label: The source, for the log.
        after: What becomes of a file that is answered.
        remembered: Where that is written down; `FilesUnderWay` alone writes to it.

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
        """Names that are not to be given now; of what is not ``found`` any more, nothing need be remembered.

        While sinks do not keep answers, a file is tried now and then: each time costs, of the privacy budget too.
        """
        with self._guard:
            self._unkept = {name: None for name in self._unkept if name in found}
            if self._unkept and self._probe_at_s is None:
                self._probe_at_s = now_s + self._probe_pause_s
                self._probe_pause_s = min(2 * self._probe_pause_s, _PROBE_S[1])
            if self._unkept and self._probe_at_s is not None and now_s >= self._probe_at_s:
                self._probe_at_s = None
                del self._unkept[next(iter(self._unkept))]
            if found:  # an empty folder is more likely that of a disk that is not mounted
                self.remembered.keep_only(found)
            return {*self._files, *self._unkept, *(file.name for file in self._to_delete)}

    def give(self, file: GivenFile, *, whole: bool) -> None:
        """Another sample is given, the last one if ``whole``.

        Both at once: whole before its last sample counts, the answer to the one before would finish it.
        """
        with self._guard:
            self._files[file.name] = file
            file.given += 1
            file.whole = whole

    def whole(self, file: GivenFile) -> None:
        """No more samples of a file will be given."""
        with self._guard:
            file.whole = True
            self._finish(file)

    def not_given(self, file: GivenFile) -> None:
        """What was given last was not taken, as its thread hung for long: the file is to be read again."""
        with self._guard:
            if self._files.get(file.name) is file and not file.finished:
                del self._files[file.name]
                file.finished = True

    def answered(self, file: GivenFile, *, failed: bool) -> None:
        """A sample is answered, and every sink has the answer."""
        with self._guard:
            self._unkept.clear()
            self._probe_pause_s, self._probe_at_s = _PROBE_S[0], None
            file.answered += 1
            file.failed = file.failed or failed
            self._finish(file)

    def unkept(self, file: GivenFile) -> None:
        """A sample is answered, and its answer not kept: the file is given again, once sinks keep them."""
        with self._guard:
            self._files.pop(file.name, None)
            file.finished = True
            self._unkept[file.name] = None

    def delete(self) -> None:
        """Delete answered files, and remember those that cannot be deleted."""
        while self._to_delete:
            file = self._to_delete[0]
            deleted = self._delete(file)
            with self._guard:
                if not deleted:
                    self.remembered.note(file.name, file.stamp, None)
                if self._to_delete and self._to_delete[0] is file:
                    self._to_delete.popleft()

    def close(self) -> None:
        """Remember how far the file was answered that was under way."""
        with self._guard:
            for file in self._files.values():
                if file.answered == file.given > 0:
                    self.remembered.note(file.name, file.stamp, file.answered)

    def _finish(self, file: GivenFile) -> None:
        """Call it under the guard."""
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
            # One that was renamed into its place is another file, still to be answered. Between the two calls
            # lie microseconds; Linux has no way to unlink a file only if it is still the same.
            if stamp_of(path.stat()) == file.stamp:
                path.unlink()
        except FileNotFoundError:
            return True
        except OSError as error:
            log.warning("source %s: %s: %s; remembered instead", self._label, file.name, error.strerror)
            return False
        return True


def stamp_of(status: os.stat_result) -> Stamp:
    """Another file of the same name has another one."""
    return status.st_size, status.st_mtime_ns

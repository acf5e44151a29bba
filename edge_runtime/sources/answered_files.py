"""Remembers the answered files of a watched folder in a file of lines that survives a kill."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from split_model.errors import BadInputError, OutputError
from split_model.service.atomic_file import write_atomically
from split_model.service.state_folder import make_state_folder

log = logging.getLogger(__name__)

#: Size, and time of the last change in ns: a new file of the same name has another stamp.
Stamp: TypeAlias = tuple[int, int]

#: A file that ended the program this many times while it was read is set aside.
_ATTEMPTS = 2
_ATTEMPT_BYTES = 4096
#: Number of superfluous lines that stay in the file: rewriting it for every few would wear out a card.
_SPARE_LINES = 100


class SetAsideError(BadInputError):
    """A file is set aside, because reading it ends the program."""


class AnsweredFiles:
    """The answered files, one line each: name, stamp, and number of answered samples (None: all)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._done: dict[str, tuple[Stamp, int | None]] = {}
        self._told = self._told_attempt = False
        text = self._text()
        for line in text.split("\n"):
            self._read(line)
        self._lines = text.count("\n")
        self._is_torn = text != "" and not text.endswith("\n")  # a new line must not follow half a line
        self._attempt_path = path.with_suffix(".reading")
        self._guard = threading.Lock()
        #: Files that are being read, or were when the program ended, with their number of attempts. The newest
        #: last.
        self._attempts = self._read_attempts()

    def done(self, name: str, stamp: Stamp) -> int | None:
        """Number of answered samples of exactly this file; None for all."""
        remembered = self._done.get(name)
        return 0 if remembered is None or remembered[0] != stamp else remembered[1]

    @contextmanager
    def reading(self, name: str, stamp: Stamp) -> Iterator[None]:
        """Record that a file is being read; the record survives a crash.

        Raises:
            SetAsideError: Reading exactly this file has ended the program twice.

        """
        before = self._attempts.get(name, (stamp, 0))
        times = before[1] if before[0] == stamp else 0
        if times >= _ATTEMPTS:
            raise SetAsideError(
                f"{name}: reading it ended this program {times} times, so it is set aside", remedy="remove the file"
            )
        self._note_attempts([name], (stamp, times + 1))
        try:
            yield
        finally:  # an exception means that the program has survived
            self._note_attempts([name])

    def note(self, name: str, stamp: Stamp, samples: int | None) -> None:
        """Write the number of answered samples to the disk, for the next start. On a full disk it warns."""
        self._done[name] = (stamp, samples)
        line = json.dumps([name, *stamp, samples]) + "\n"
        try:
            make_state_folder(self._path.parent)
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n" + line if self._is_torn else line)
        except OSError as error:
            self._is_torn = True
            self._warn(error, "a restart will answer some files again")
        else:
            self._is_torn = False
            self._lines += 1
        self._note_attempts(self._attempts.keys() & {name})

    def keep_only(self, names: AbstractSet[str]) -> None:
        """Remove files that are gone; rewrites the file if it has more than twice the needed lines.

        A kill or a power cut leaves the old or the new file, whole.
        """
        for name in self._done.keys() - names:
            del self._done[name]
        self._note_attempts(self._attempts.keys() - names)
        if self._lines <= 2 * len(self._done) + _SPARE_LINES:
            return
        lines = (json.dumps([name, *stamp, samples]) + "\n" for name, (stamp, samples) in self._done.items())
        try:
            make_state_folder(self._path.parent)
            write_atomically(self._path, "".join(lines).encode())
        except OSError as error:
            self._warn(error, "it grows until it can be rewritten")
            return
        self._lines, self._is_torn = len(self._done), False

    def _read_attempts(self) -> dict[str, tuple[Stamp, int]]:
        try:
            rows = json.loads(self._attempt_path.read_bytes()[:_ATTEMPT_BYTES])
            return {str(name): ((int(size), int(changed_ns)), int(times)) for name, size, changed_ns, times in rows}
        except (OSError, ValueError, TypeError):  # no file under way, half a line, or an old format
            return {}

    def _note_attempts(self, names: Collection[str], attempt: tuple[Stamp, int] | None = None) -> None:
        """Record the present attempts; safe from any thread.

        It is written in place without a sync: it has to survive this process, not a power cut, and it wears a card
        little.
        """
        if not names:
            return
        with self._guard:
            attempts = {name: known for name, known in self._attempts.items() if name not in names}
            if attempt is not None:
                attempts |= dict.fromkeys(names, attempt)
            while len(line := _line_of(attempts)) > _ATTEMPT_BYTES:
                del attempts[next(iter(attempts))]
            self._attempts = attempts  # a copy that no thread changes: it is read without the guard
            self._write_attempts(line)

    def _write_attempts(self, line: bytes) -> None:
        try:
            make_state_folder(self._path.parent)
            descriptor = os.open(self._attempt_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(descriptor, line.ljust(_ATTEMPT_BYTES), 0)
            finally:
                os.close(descriptor)
        except OSError as error:
            if not self._told_attempt:
                log.warning(
                    "%s: %s; files that end the program are not set aside", self._attempt_path, error.strerror
                )
            self._told_attempt = True

    def _text(self) -> str:
        """The file's text; empty if there is no file."""
        try:
            return self._path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise OutputError(
                f"{self._path}: {error}", remedy="remove it, and all files will be answered again"
            ) from None

    def _warn(self, error: OSError, what: str) -> None:
        if not self._told:
            log.warning("%s: %s; %s", self._path, error.strerror, what)
        self._told = True

    def _read(self, line: str) -> None:
        try:
            name, size, changed_ns, samples = json.loads(line)
        except (ValueError, TypeError):
            return  # the last line of a killed program: its file is answered again
        self._done[name] = ((size, changed_ns), samples)


def _line_of(attempts: Mapping[str, tuple[Stamp, int]]) -> bytes:
    return json.dumps([[name, *stamp, times] for name, (stamp, times) in attempts.items()]).encode()

"""Which files of a watched folder have been answered, kept in a file of lines that a kill cannot spoil."""

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

#: Size and time of the last change in ns: another file of the same name has another one.
Stamp: TypeAlias = tuple[int, int]

#: Times that a file may end the program while it is read; after that it is set aside.
_ATTEMPTS = 2
_ATTEMPT_BYTES = 4096
#: So many lines too many are left in the file: writing it anew for every few would wear out a card.
_SPARE_LINES = 100


class SetAsideError(BadInputError):
    """A file that is not read any more, because reading it ends the program."""


class AnsweredFiles:
    """Which files have been answered: name, stamp, and how many of its samples, None for all. One line each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._done: dict[str, tuple[Stamp, int | None]] = {}
        self._told = self._told_attempt = False
        text = self._text()
        for line in text.split("\n"):
            self._read(line)
        self._lines = text.count("\n")
        self._is_torn = text != "" and not text.endswith("\n")  # a new line must not go on where half of one is
        self._attempt_path = path.with_suffix(".reading")
        self._guard = threading.Lock()
        #: Of files that are being read, or were when this program ended: how often that was. The newest last.
        self._attempts = self._read_attempts()

    def done(self, name: str, stamp: Stamp) -> int | None:
        """How many samples of this very file have been answered; None for all."""
        remembered = self._done.get(name)
        return 0 if remembered is None or remembered[0] != stamp else remembered[1]

    @contextmanager
    def reading(self, name: str, stamp: Stamp) -> Iterator[None]:
        """Note, across a crash, that a file is being read.

        Raises:
            SetAsideError: Reading this very file has ended the program twice.

        """
        before = self._attempts.get(name, (stamp, 0))
        times = before[1] if before[0] == stamp else 0
        if times >= _ATTEMPTS:
            raise SetAsideError(
                f"{name}: reading it ended this program {times} times, so it is set aside", remedy="remove it"
            )
        self._note_attempts([name], (stamp, times + 1))
        try:
            yield
        finally:  # whatever is raised, the program is still there
            self._note_attempts([name])

    def note(self, name: str, stamp: Stamp, samples: int | None) -> None:
        """So many samples are answered. Survives this program; a disk that is full is a warning."""
        self._done[name] = (stamp, samples)
        line = json.dumps([name, *stamp, samples]) + "\n"
        try:
            make_state_folder(self._path.parent)
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n" + line if self._is_torn else line)
        except OSError as error:
            self._is_torn = True
            self._warn(error, "a restart will answer files again")
        else:
            self._is_torn = False
            self._lines += 1
        self._note_attempts(self._attempts.keys() & {name})

    def keep_only(self, names: AbstractSet[str]) -> None:
        """Forget files that are gone. The file is written anew when it has more than twice the lines it needs.

        A kill or a power cut leaves the one or the other, whole.
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
            self._warn(error, "it grows until it can be written anew")
            return
        self._lines, self._is_torn = len(self._done), False

    def _read_attempts(self) -> dict[str, tuple[Stamp, int]]:
        try:
            rows = json.loads(self._attempt_path.read_bytes()[:_ATTEMPT_BYTES])
            return {str(name): ((int(size), int(changed_ns)), int(times)) for name, size, changed_ns, times in rows}
        except (OSError, ValueError, TypeError):  # none under way, written half, or by a version before
            return {}

    def _note_attempts(self, names: Collection[str], attempt: tuple[Stamp, int] | None = None) -> None:
        """Note an attempt, or none, of these files; safe from any thread.

        In place and without a sync: it is to survive this process, not a power cut, and costs a card little.
        """
        if not names:
            return
        with self._guard:
            attempts = {name: known for name, known in self._attempts.items() if name not in names}
            if attempt is not None:
                attempts |= dict.fromkeys(names, attempt)
            while len(line := _line_of(attempts)) > _ATTEMPT_BYTES:
                del attempts[next(iter(attempts))]
            self._attempts = attempts  # another one, which nobody changes: it is read without the guard
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
                    "%s: %s; a file that ends the program is not noticed", self._attempt_path, error.strerror
                )
            self._told_attempt = True

    def _text(self) -> str:
        """What the file holds, or empty where there is none."""
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
            return  # the last line of a program that was killed: its file is answered again
        self._done[name] = ((size, changed_ns), samples)


def _line_of(attempts: Mapping[str, tuple[Stamp, int]]) -> bytes:
    return json.dumps([[name, *stamp, times] for name, (stamp, times) in attempts.items()]).encode()

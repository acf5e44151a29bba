"""Which files of a watched folder have been answered, kept in a file of lines that a kill cannot spoil."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TypeAlias

from split_model.errors import OutputError

log = logging.getLogger(__name__)

#: Size and time of the last change in ns: another file of the same name has another one.
Stamp: TypeAlias = tuple[int, int]


class Memory:
    """Which files have been answered: name, stamp, and how many of its samples, None for all. One line each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._done: dict[str, tuple[Stamp, int | None]] = {}
        self._told = False
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                self._read(line)
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            raise OutputError(f"{path}: {error}; remove it, and all files will be answered again") from None

    def done(self, name: str, stamp: Stamp) -> int | None:
        """How many samples of this very file have been answered; None for all."""
        remembered = self._done.get(name)
        return 0 if remembered is None or remembered[0] != stamp else remembered[1]

    def note(self, name: str, stamp: Stamp, samples: int | None) -> None:
        """So many samples are answered. Survives this program; a disk that is full is a warning."""
        self._done[name] = (stamp, samples)
        line = json.dumps([name, *stamp, samples]) + "\n"
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            if not self._told:
                log.warning("%s: %s; a restart will answer files again", self._path, error.strerror)
            self._told = True

    def keep_only(self, names: set[str]) -> None:
        """Forget files that are gone, in the file as well: written beside it, then put in its place.

        Where all are gone, the folder is more likely that of a disk that is not mounted: then all are kept.
        """
        if not names & self._done.keys():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return
        self._done = {name: value for name, value in self._done.items() if name in names}
        beside = self._path.with_suffix(".new")
        lines = (json.dumps([name, *stamp, samples]) + "\n" for name, (stamp, samples) in self._done.items())
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text("".join(lines), encoding="utf-8")
            beside.replace(self._path)
        except OSError as error:
            raise OutputError(f"{beside}: {error.strerror}; make room, or set another device.state") from None

    def _read(self, line: str) -> None:
        try:
            name, size, changed_ns, samples = json.loads(line)
        except (ValueError, TypeError):
            return  # the last line of a program that was killed: its file is answered again
        self._done[name] = ((size, changed_ns), samples)

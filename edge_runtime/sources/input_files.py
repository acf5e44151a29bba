"""Finds the input files of a watched folder; other files are counted, and logged once per file extension."""

from __future__ import annotations

import logging
from collections.abc import Container
from pathlib import Path

from edge_runtime.sources.answered_files import Stamp
from split_model.features.picture_formats import describe_passed_over, is_picture, readable_endings

log = logging.getLogger(__name__)

#: Maximum number of endings of skipped files that are logged; others are only counted.
_MOST_TOLD = 16


class InputFiles:
    """Recognises inputs by their endings; a file without one is opened once to check.

    Args:
        folder: The watched folder.
        label: The source, for the log.
        pictures: Whether pictures are inputs, besides ``.npz`` files.

    """

    def __init__(self, folder: Path, label: str, *, pictures: bool) -> None:
        self._folder = folder
        self._label = label
        self._pictures = pictures
        self._others: dict[str, tuple[Stamp, bool]] = {}  # files that are not inputs, and whether each was counted
        self._told_endings: set[str] = set()

    def is_input(self, name: str, stamp: Stamp) -> bool:
        """Whether a settled file is an input."""
        known = self._others.get(name)
        if known is not None and known[0] == stamp:
            return False
        ending = name[name.rfind(".") :].lower() if "." in name else ""
        if ending == ".npz":
            return True
        if self._pictures and (ending in readable_endings() or (not ending and is_picture(self._folder / name))):
            return True
        self._others[name] = (stamp, known is not None)
        return False

    def tell_passed_over(self) -> int:
        """Log new endings of skipped files; returns the number of files skipped since the last call."""
        fresh = [name for name, (_, counted) in self._others.items() if not counted]
        for name in fresh:
            self._others[name] = (self._others[name][0], True)
        told = [name for name in fresh if Path(name).suffix.lower() not in self._told_endings]
        if told and len(self._told_endings) < _MOST_TOLD:
            log.warning("source %s: %s: %s", self._label, self._folder, describe_passed_over(told))
            self._told_endings.update(Path(name).suffix.lower() for name in told)
        return len(fresh)

    def keep_only(self, names: Container[str]) -> None:
        """Forget files that are gone."""
        self._others = {name: other for name, other in self._others.items() if name in names}

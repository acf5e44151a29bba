"""Reads class names from a labels file, or from one inside the model's own file.

TFLite files with metadata are also zip archives, with the labels as a text file inside. Numbers before the names of
a labels file ("0 cat", "0: cat") are class indices, not part of the names.
"""

from __future__ import annotations

import logging
import lzma
import re
import zipfile
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from split_model.errors import BadInputError
from split_model.features.data import parse_labels, read_labels

_log = logging.getLogger(__name__)

#: The name of classes that a file leaves out.
UNNAMED = "???"
_NUMBERED = re.compile(r"(\d{1,5})\s*[:,;\s]\s*(\S.*)")
#: Matches lines of JSON, or of TensorFlow's label maps.
_MARKUP = frozenset(("{", "}", "[", "]", "item {", "item{"))
_MAX_BYTES = 1 << 20
_MAX_MEMBERS = 64
#: Errors of reading a damaged or an encrypted archive.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    EOFError,
)


@dataclass(frozen=True)
class Labels:
    """Class names in order of the classes. ``told``: how the file was read, as text."""

    names: tuple[str, ...]
    source: str
    told: str = ""


def labels_of(path: Path | None, model: Path | None, sizes: Collection[int]) -> Labels | None:
    """Find the class names to use.

    Args:
        path: The labels file; None for the one in the model's file, if that fits.
        model: The model's file; None: do not look into it.
        sizes: The numbers of classes that the outputs can have.

    Raises:
        MissingInputError: There is no file at ``path``.
        BadInputError: It is not text, not lines of names, or empty.

    """
    if path is not None:
        given = Labels(read_labels(path), str(path))
        if _MARKUP & set(given.names):
            raise BadInputError(f"{path}: not a plain text of labels", remedy="write one class name a line")
        return _without_numbers(given, sizes)
    for name, raw in [] if model is None else _members(model):
        source = f"{model}, {name}"
        try:
            found = _without_numbers(Labels(parse_labels(raw, source), source), sizes)
        except BadInputError:
            continue  # some other text
        if len(found.names) in sizes and len(found.names) > 1:
            told = f"{len(found.names)} labels taken from {name!r} in the model's file; --labels takes others"
            return Labels(found.names, source, told)
    return None


def _members(model: Path) -> list[tuple[str, bytes]]:
    """The small text files in a model's file, by name; for a damaged one none, and a warning."""
    if not zipfile.is_zipfile(model):
        return []
    try:
        with zipfile.ZipFile(model) as archive:
            entries = [
                entry for entry in archive.infolist()[:_MAX_MEMBERS]
                if entry.filename.lower().endswith(".txt") and entry.file_size <= _MAX_BYTES
            ]  # fmt: skip
            return [(entry.filename, archive.open(entry).read(_MAX_BYTES)) for entry in entries]
    except _DAMAGED as error:
        _log.warning("%s: the labels inside cannot be read (%s); give them with --labels", model, error)
        return []


def _without_numbers(labels: Labels, sizes: Collection[int]) -> Labels:
    """Order names by the numbers before them, if every line has one and the numbers cover all classes."""
    numbered = [_NUMBERED.fullmatch(name) for name in labels.names]
    pairs = [(int(found[1]), found[2]) for found in numbered if found is not None]
    if len(pairs) < len(labels.names) or len({name for _, name in pairs}) < len(pairs):
        return labels
    places = [place for place, _ in pairs]
    if sorted(places) in ([*range(len(places))], [*range(1, len(places) + 1)]):
        first = min(places)
        return _placed(labels, pairs, first, len(places))
    # With gaps the numbers must count from 0, and fit the model's number of classes.
    wanted = [size for size in sizes if size > max(places)]
    if len(labels.names) not in sizes and len(set(places)) == len(places) and len(wanted) == 1:
        return _placed(labels, pairs, 0, wanted[0])
    return labels


def _placed(labels: Labels, pairs: Sequence[tuple[int, str]], first: int, count: int) -> Labels:
    names = [UNNAMED] * count
    for place, name in pairs:
        names[place - first] = name
    return Labels(tuple(names), labels.source, f"{labels.source}: its numbers are taken as places from {first}")

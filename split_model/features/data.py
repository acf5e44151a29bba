"""Reads the commands' DATA one sample at a time: a folder of pictures, or an ``.npz`` of arrays.

A folder has pictures, or one sub-folder for each class: a sub-folder named by an integer is that class index, any
other name is looked up among the model's labels. An ``.npz`` holds ``inputs`` (model input tensors, not pictures:
[samples, ...] with or without the model's batch axis of 1) and may have ``labels`` (whole numbers,
[samples]). Models of several inputs take
``inputs_0``, ``inputs_1`` and so on. Or it holds ``pictures``, uint8 [samples, height, width] or
[samples, height, width, channels], which are pre-processed like picture files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from split_model.bundle.manifest import ImagePreprocess, TensorSpec
from split_model.errors import BadInputError, MissingInputError
from split_model.features.arrays import ArrayFile
from split_model.features.picture_formats import describe_passed_over, is_picture, readable_endings
from split_model.features.preprocess import check_preprocess, load_placed
from split_model.features.samples import BadSampleError, Data, Sample, spelled
from split_model.service import text_file

__all__ = [
    "ArrayFile",
    "BadSampleError",
    "Data",
    "ImageFolder",
    "Sample",
    "open_data",
    "parse_labels",
    "read_labels",
    "spelled",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _File:
    name: str
    path: Path
    label: int | None


class ImageFolder(Data):
    """Pictures of a folder, sorted by their path below it.

    ``passed_over``: names of the other files, which are not readable pictures. They are logged once.
    """

    def __init__(
        self, root: Path, spec: TensorSpec, preprocess: ImagePreprocess, labels: Sequence[str] | None = None
    ) -> None:
        self.inputs = (spec,)
        check_preprocess(preprocess, spec)
        self.preprocess = preprocess
        others: list[str] = []
        self._files = tuple(_pictures(root, labels, others))
        self.passed_over = tuple(others)
        self._root = root
        self._has_told = False
        if not self._files:
            endings = " ".join(sorted(readable_endings()))
            told = f"; {describe_passed_over(others)}" if others else ""
            raise BadInputError(
                f"{root}: holds no pictures ({endings}), nor sub-folders with pictures{told}",
                remedy="name another folder",
            )

    @property
    def paths(self) -> tuple[Path, ...]:
        """The picture files, in order."""
        return tuple(file.path for file in self._files)

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._files)

    def __iter__(self) -> Iterator[Sample]:
        """Decode the pictures in order. After a `BadSampleError` the iterator goes on with the next one."""
        if self.passed_over and not self._has_told:
            _log.warning("%s: %s", self._root, describe_passed_over(self.passed_over))
        self._has_told = True
        return map(self._sample, self._files)

    def _sample(self, file: _File) -> Sample:
        try:
            tensor, placement = load_placed(file.path, self.preprocess, self.inputs[0])
        except (BadInputError, MissingInputError) as error:
            raise BadSampleError(error.problem, name=file.name, remedy=error.remedy) from None
        return Sample(name=file.name, tensors=(tensor,), label=file.label, path=file.path, placement=placement)


def open_data(
    path: Path,
    inputs: Sequence[TensorSpec],
    preprocess: ImagePreprocess | None,
    labels: Sequence[str] | None = None,
) -> Data:
    """Open DATA for a model with these inputs.

    ``labels`` are the model's class names, for folders named by class; without them a folder whose name is not a
    number gives samples without a label. Raises `MissingInputError` if ``path`` does not exist, and `BadInputError`
    if the data do not fit the model.
    """
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:  # the disk fails
        raise BadInputError(f"{path}: {error.strerror}", remedy="check that disk, or copy the file") from None
    if is_folder:
        if preprocess is None or len(inputs) != 1:
            why = "declares no pre-processing" if preprocess is None else f"takes {len(inputs)} inputs"
            raise BadInputError(
                f"{path}: a folder of pictures, but the model {why}", remedy="give an .npz of 'inputs'"
            )
        return ImageFolder(path, inputs[0], preprocess, labels)
    if not is_there:
        raise MissingInputError(
            f"{path}: no such folder or .npz file", remedy="give a folder of pictures, or an .npz file"
        )
    if path.suffix.lower() != ".npz":
        raise BadInputError(
            f"{path}: neither a folder nor an .npz file", remedy="give a folder of pictures, or an .npz file"
        )
    return ArrayFile(path, inputs, preprocess)


def read_labels(path: Path) -> tuple[str, ...]:
    """Read the class names of a labels file, one per line; the class index is the line's number minus one."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise MissingInputError(
            f"{path}: no such labels file", remedy="name a text file with one class name a line"
        ) from None
    except OSError as error:
        raise BadInputError(
            f"{path}: not a labels file: {error.strerror}", remedy="write UTF-8 text, one class name a line"
        ) from None
    return parse_labels(raw, str(path))


def parse_labels(raw: bytes, source: str) -> tuple[str, ...]:
    """Parse the class names of a labels file; blank lines at its end are ignored. `BadInputError` if empty."""
    lines = [line.strip() for line in text_file.text(raw, source).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise BadInputError(f"{source}: an empty labels file", remedy="write one class name a line")
    return tuple(lines)


def _pictures(root: Path, labels: Sequence[str] | None, others: list[str]) -> Iterator[_File]:
    """List the pictures, and append the names of other files to ``others``."""
    try:
        for entry in _visible(root):
            if entry.is_dir():
                inside = []
                for path in _visible(entry):
                    if path.is_file() and is_picture(path):
                        inside.append(path)
                    else:
                        others.append(f"{entry.name}/{path.name}")
                label = _class_index(entry, labels) if inside else None
                yield from (_File(spelled(f"{entry.name}/{path.name}"), path, label) for path in inside)
            elif entry.is_file() and is_picture(entry):
                yield _File(spelled(entry.name), entry, None)
            else:
                others.append(entry.name)
    except PermissionError as error:
        raise MissingInputError(
            f"{error.filename}: no permission to read it", remedy="make it readable for this user"
        ) from None


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _class_index(folder: Path, labels: Sequence[str] | None) -> int | None:
    name = folder.name.strip()
    if name.isascii() and name.isdigit():
        index = int(name)
        if labels is not None and index >= len(labels):
            raise BadInputError(
                f"{folder}: class index {index}, the model has classes 0 to {len(labels) - 1}",
                remedy="name the folder by its class index or its label",
            )
        return index
    if labels is None:
        return None
    matches = [index for index, label in enumerate(labels) if label.casefold() == name.casefold()]
    if len(matches) != 1:
        problem = "is not a class of the model" if not matches else f"names classes {matches}"
        raise BadInputError(
            f"{folder}: {name!r} {problem}", remedy="name the folder by its class index or its label"
        )
    return matches[0]

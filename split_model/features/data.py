"""DATA as the commands take it: a folder of pictures, or an ``.npz`` of arrays; read one sample at a time.

A folder holds pictures, or one sub-folder a class: a sub-folder named by a whole number is that
class index, any other name is looked up among the model's labels. An ``.npz`` holds ``inputs``
(model input tensors, not pictures: [samples, ...] with the model's own batch axis of 1 left out
or in) and may hold ``labels`` (whole numbers, [samples]). Models of several inputs take
``inputs_0``, ``inputs_1`` and so on.
"""

from __future__ import annotations

import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from split_model.bundle.manifest import ImagePreprocess, TensorSpec
from split_model.errors import BadInputError, MissingInputError
from split_model.features.preprocess import SUFFIXES, check_preprocess, load_tensor, to_stored

Array = NDArray[Any]


@dataclass(frozen=True)
class Sample:
    """One input of the model. ``tensors`` fit the model's inputs; ``path`` is the picture's file, if it has one."""

    name: str
    tensors: tuple[Array, ...]
    label: int | None
    path: Path | None = None


class BadSampleError(BadInputError):
    """One damaged sample among others; ``name`` is the sample's."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(why)
        self.name = name


class Data(ABC):
    """A data set whose names, labels and sizes are known and whose samples are read when iterated over."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def __iter__(self) -> Iterator[Sample]:
        """Read the samples, in the order of their names; a damaged one raises `BadInputError`."""


@dataclass(frozen=True)
class _File:
    name: str
    path: Path
    label: int | None


class ImageFolder(Data):
    """Pictures of a folder, sorted by their path below it."""

    def __init__(
        self, root: Path, spec: TensorSpec, preprocess: ImagePreprocess, labels: Sequence[str] | None = None
    ) -> None:
        self.inputs = (spec,)
        check_preprocess(preprocess, spec)
        self.preprocess = preprocess
        self._files = tuple(_pictures(root, labels))
        if not self._files:
            endings = " ".join(sorted(SUFFIXES))
            raise BadInputError(f"{root}: holds no pictures ({endings}), nor sub-folders with pictures")

    @property
    def paths(self) -> tuple[Path, ...]:
        """The picture files, in order."""
        return tuple(file.path for file in self._files)

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._files)

    def __iter__(self) -> Iterator[Sample]:
        """Decode one picture after the other. After a `BadSampleError` the iterator goes on with the next one."""
        return map(self._sample, self._files)

    def _sample(self, file: _File) -> Sample:
        try:
            tensor = load_tensor(file.path, self.preprocess, self.inputs[0])
        except (BadInputError, MissingInputError) as error:
            raise BadSampleError(file.name, str(error)) from None
        return Sample(name=file.name, tensors=(tensor,), label=file.label, path=file.path)


class ArrayFile(Data):
    """An ``.npz`` whose headers were checked; its arrays are streamed, never loaded whole."""

    def __init__(self, path: Path, inputs: Sequence[TensorSpec]) -> None:
        self.inputs = tuple(inputs)
        self._path = path
        names = ["inputs"] if len(self.inputs) == 1 else [f"inputs_{index}" for index in range(len(self.inputs))]
        self._names = names
        with _npz(path) as archive, ExitStack() as stack:
            headers = [_Member(archive, path, name, stack) for name in names]
            for member, spec in zip(headers, self.inputs, strict=True):
                _check_rows(path, member, spec)
            counts = {member.shape[0] for member in headers}
            if len(counts) != 1:
                raise BadInputError(f"{path}: its inputs have different numbers of samples, {sorted(counts)}")
            self._count = counts.pop()
            self._labels = _read_labels(archive, path, self._count, stack)
        if self._count == 0:
            raise BadInputError(f"{path}: holds no samples")

    def __len__(self) -> int:
        """Number of samples."""
        return self._count

    def __iter__(self) -> Iterator[Sample]:
        """Read one row after the other. After a `BadSampleError` the iterator goes on with the next one."""
        return map(_sample_of, self._rows())

    def _rows(self) -> Iterator[Sample | BadSampleError]:
        # A generator is finished once it raises: what one row lacks is handed out, and raised outside of it.
        with _npz(self._path) as archive, ExitStack() as stack:
            members = [_Member(archive, self._path, name, stack) for name in self._names]
            for index in range(self._count):
                rows = [member.row() for member in members]  # all of them, or the next sample's would not fit
                name = f"{self._path.name}[{index}]"
                try:
                    pairs = zip(rows, self.inputs, strict=True)
                    tensors = tuple(_as_input(self._path, index, row, spec) for row, spec in pairs)
                except BadInputError as error:
                    yield BadSampleError(name, str(error))
                    continue
                label = None if self._labels is None else int(self._labels[index])
                yield Sample(name=name, tensors=tensors, label=label)


def open_data(
    path: Path,
    inputs: Sequence[TensorSpec],
    preprocess: ImagePreprocess | None,
    labels: Sequence[str] | None = None,
) -> Data:
    """Open DATA for a model with these inputs.

    ``labels`` are the model's class names, for folders named by class; without them a folder
    whose name is no number gives samples without a label. Raises `MissingInputError` where there
    is nothing at ``path`` and `BadInputError` where it does not fit the model.
    """
    if path.is_dir():
        if preprocess is None or len(inputs) != 1:
            why = "declares no pre-processing" if preprocess is None else f"takes {len(inputs)} inputs"
            raise BadInputError(f"{path}: a folder of pictures, but the model {why}; give an .npz of 'inputs'")
        return ImageFolder(path, inputs[0], preprocess, labels)
    if not path.exists():
        raise MissingInputError(f"{path}: no such folder or .npz file")
    if path.suffix != ".npz":
        raise BadInputError(f"{path}: data is a folder of pictures or an .npz file")
    return ArrayFile(path, inputs)


def read_labels(path: Path) -> tuple[str, ...]:
    """The class names of a labels file: one a line, the line's number less one is the class index."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise MissingInputError(f"{path}: no such labels file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: not a labels file (UTF-8 text, one name a line): {error}") from None
    if not lines:
        raise BadInputError(f"{path}: an empty labels file")
    return tuple(line.strip() for line in lines)


def _pictures(root: Path, labels: Sequence[str] | None) -> Iterator[_File]:
    try:
        entries = sorted(path for path in root.iterdir() if not path.name.startswith("."))
        for entry in entries:
            if entry.is_dir():
                inside = sorted(path for path in entry.iterdir() if _is_picture(path))
                label = _class_index(entry, labels) if inside else None
                yield from (_File(f"{entry.name}/{path.name}", path, label) for path in inside)
            elif _is_picture(entry):
                yield _File(entry.name, entry, None)
    except PermissionError as error:
        raise MissingInputError(f"{error.filename}: no permission to read it") from None


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _class_index(folder: Path, labels: Sequence[str] | None) -> int | None:
    name = folder.name.strip()
    if name.isascii() and name.isdigit():
        index = int(name)
        if labels is not None and index >= len(labels):
            raise BadInputError(f"{folder}: class index {index}, the model has classes 0 to {len(labels) - 1}")
        return index
    if labels is None:
        return None
    matches = [index for index, label in enumerate(labels) if label.casefold() == name.casefold()]
    if len(matches) != 1:
        problem = "is no class of the model" if not matches else f"names classes {matches}"
        raise BadInputError(f"{folder}: {name!r} {problem}; name the folder by its class index or its label")
    return matches[0]


def _npz(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise BadInputError(f"{path}: not an .npz file ({error}); write it with numpy.savez") from None


class _Member:
    """One array of an ``.npz``, read row by row; nothing is unpickled."""

    def __init__(self, archive: zipfile.ZipFile, path: Path, name: str, stack: ExitStack) -> None:
        self.name = name
        self._path = path
        if f"{name}.npy" not in archive.namelist():
            found = ", ".join(sorted(entry.removesuffix(".npy") for entry in archive.namelist())) or "nothing"
            raise BadInputError(f"{path}: has no array {name!r}, found {found[:200]}")
        try:
            self._file: IO[bytes] = stack.enter_context(archive.open(f"{name}.npy"))
            version = np.lib.format.read_magic(self._file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, column_major, self.dtype = read(self._file)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            raise BadInputError(f"{path}: array {name!r} is damaged ({_line(error)}); write it again") from None
        if self.dtype.hasobject or self.dtype.fields is not None or not self.shape:
            raise BadInputError(
                f"{path}: array {name!r} is {self.dtype}{list(self.shape)}, expected rows of numbers"
            )
        if column_major and len(self.shape) > 1:
            raise BadInputError(f"{path}: array {name!r} is column-major; save numpy.ascontiguousarray of it")

    def row(self) -> Array:
        """The next row, in the machine's byte order."""
        values = int(np.prod(self.shape[1:], dtype=np.int64))
        try:
            raw = self._file.read(values * self.dtype.itemsize)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise BadInputError(f"{self._path}: array {self.name!r} is damaged ({_line(error)})") from None
        if len(raw) != values * self.dtype.itemsize:
            raise BadInputError(f"{self._path}: array {self.name!r} is cut short; write it again")
        return np.frombuffer(raw, self.dtype).reshape(self.shape[1:]).astype(self.dtype.newbyteorder("="))


def _check_rows(path: Path, member: _Member, spec: TensorSpec) -> None:
    shapes = [list(spec.shape)] + ([list(spec.shape[1:])] if spec.shape[0] == 1 else [])
    dtypes = {spec.dtype} | ({"float32"} if spec.scale else set())
    if list(member.shape[1:]) not in shapes or member.dtype.newbyteorder("=").name not in dtypes:
        rows = ["samples", *shapes[-1]]
        expected = f"{' or '.join(sorted(dtypes))}[{', '.join(map(str, rows))}]"
        raise BadInputError(f"{path}: {member.name!r} is {member.dtype}{list(member.shape)}, expected {expected}")


def _sample_of(found: Sample | BadSampleError) -> Sample:
    if isinstance(found, BadSampleError):
        raise found
    return found


def _as_input(path: Path, index: int, row: Array, spec: TensorSpec) -> Array:
    if row.dtype.kind == "f" and not np.isfinite(row).all():
        raise BadInputError(f"{path}: sample {index} holds values that are not finite")
    shaped = row.reshape(spec.shape)
    return shaped if shaped.dtype == spec.dtype else to_stored(shaped, spec)


def _read_labels(archive: zipfile.ZipFile, path: Path, count: int, stack: ExitStack) -> Array | None:
    if "labels.npy" not in archive.namelist():
        return None
    member = _Member(archive, path, "labels", stack)
    if member.shape != (count,) or member.dtype.kind not in "iu":
        raise BadInputError(
            f"{path}: 'labels' is {member.dtype}{list(member.shape)}, expected whole numbers [{count}]"
        )
    labels = np.array([member.row() for _ in range(count)])
    if count and int(labels.min()) < 0:
        raise BadInputError(f"{path}: 'labels' holds {int(labels.min())}; class indices start at 0")
    return labels


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

"""Reads an ``.npz`` as data, row by row: model inputs or pictures. Nothing is unpickled."""

from __future__ import annotations

import math
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np

from split_model.arrays import Array
from split_model.bundle.manifest import ImagePreprocess, TensorSpec
from split_model.errors import BadInputError
from split_model.features.npz import read_header
from split_model.features.picture_files import MAX_DECODE_BYTES, MAX_PIXELS, SCALED_BYTES
from split_model.features.placement import Placement
from split_model.features.preprocess import check_preprocess, picture_tensor, to_stored
from split_model.features.samples import BadSampleError, Data, Sample, spelled

_PICTURES, _LABELS = "pictures", "labels"
#: Group size in which labels are checked before the first sample is read.
_BLOCK_ROWS = 1 << 16
# Errors of `read_header`, and of zipfile on damaged members.
_DAMAGED = (ValueError, OverflowError, KeyError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


class ArrayFile(Data):
    """An ``.npz`` with checked headers; its arrays are streamed, never loaded whole."""

    def __init__(self, path: Path, inputs: Sequence[TensorSpec], preprocess: ImagePreprocess | None = None) -> None:
        self.inputs = tuple(inputs)
        self._path = path
        self._preprocess: ImagePreprocess | None = None
        names = ["inputs"] if len(self.inputs) == 1 else [f"inputs_{index}" for index in range(len(self.inputs))]
        with _npz(path) as archive, ExitStack() as stack:
            if f"{_PICTURES}.npy" in archive.namelist():
                names = [_PICTURES]
                self._preprocess = _declared(path, self.inputs, preprocess)
            self._names = names
            headers = [_Member(archive, path, name, stack) for name in names]
            for member, spec in zip(headers, self.inputs, strict=True):
                if self._preprocess is None:
                    _check_rows(path, member, spec)
                else:
                    _check_pictures(path, member, self._preprocess.channels)
            counts = {member.shape[0] for member in headers}
            if len(counts) != 1:
                raise BadInputError(
                    f"{path}: its inputs have different numbers of samples, {sorted(counts)}",
                    remedy="write the .npz again",
                )
            self._count = counts.pop()
            self._labelled = f"{_LABELS}.npy" in archive.namelist()
            if self._labelled:
                _check_labels(path, _Member(archive, path, _LABELS, stack), self._count)
        if self._count == 0:
            raise BadInputError(f"{path}: has no samples", remedy="give one sample at least")

    def __len__(self) -> int:
        """Number of samples."""
        return self._count

    def __iter__(self) -> Iterator[Sample]:
        """Read the rows in order. After a `BadSampleError` the iterator goes on with the next row."""
        return map(_sample_of, self._rows())

    def _rows(self) -> Iterator[Sample | BadSampleError]:
        # A generator ends when it raises: so it yields the error of a row, which is raised outside.
        with _npz(self._path) as archive, ExitStack() as stack:
            members = [_Member(archive, self._path, name, stack) for name in self._names]
            labels = _Member(archive, self._path, _LABELS, stack) if self._labelled else None
            for index in range(self._count):
                rows = [member.row() for member in members]  # all of them, to keep the inputs in step
                label = None if labels is None else int(labels.row())
                name = spelled(f"{self._path.name}[{index}]")
                try:
                    pairs = zip(rows, self.inputs, strict=True)
                    tensors = tuple(self._as_input(index, row, spec) for row, spec in pairs)
                except BadInputError as error:
                    yield BadSampleError(error.problem, name=name, remedy=error.remedy)
                    continue
                yield Sample(name=name, tensors=tensors, label=label, placement=self._placement(rows))

    def _placement(self, rows: Sequence[Array]) -> Placement | None:
        if self._preprocess is None:
            return None
        return Placement.of(self._preprocess, *rows[0].shape[:2])

    def _as_input(self, index: int, row: Array, spec: TensorSpec) -> Array:
        if self._preprocess is None:
            return _as_input(self._path, index, row, spec)
        return picture_tensor(row, self._preprocess, spec)


def _npz(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise BadInputError(
            f"{path}: not an .npz file ({_line(error)})", remedy="write it with numpy.savez"
        ) from None


class _Member:
    """One array of an ``.npz``, read row by row; nothing is unpickled."""

    def __init__(self, archive: zipfile.ZipFile, path: Path, name: str, stack: ExitStack) -> None:
        self.name = name
        self._path = path
        if f"{name}.npy" not in archive.namelist():
            found = ", ".join(sorted(entry.removesuffix(".npy") for entry in archive.namelist())) or "nothing"
            raise BadInputError(
                f"{path}: has no array {name!r}, found {found[:200]}", remedy=f"write the samples as {name!r}"
            )
        info = archive.getinfo(f"{name}.npy")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadInputError(
                f"{path}: array {name!r} is compressed in an odd way", remedy="write it with numpy.savez"
            )
        try:
            self._file: IO[bytes] = stack.enter_context(archive.open(f"{name}.npy"))
            self.shape, column_major, self.dtype = read_header(self._file)
        except _DAMAGED as error:
            raise BadInputError(
                f"{path}: array {name!r} is damaged ({_line(error)})", remedy="write the .npz again"
            ) from None
        if self.dtype.hasobject or self.dtype.fields is not None or not self.shape:
            raise BadInputError(
                f"{path}: array {name!r} is {self.dtype}{list(self.shape)}, expected rows of numbers"
            )
        if not all(0 <= side <= sys.maxsize for side in self.shape):
            raise BadInputError(
                f"{path}: array {name!r} claims to be {list(self.shape)}", remedy="write the .npz again"
            )
        if self.shape[0] > info.file_size:  # rows may be missing, too: the complete ones are used
            raise BadInputError(f"{path}: array {name!r} is cut short", remedy="write the .npz again")
        if column_major and len(self.shape) > 1:
            raise BadInputError(
                f"{path}: array {name!r} is column-major", remedy="save numpy.ascontiguousarray of it"
            )

    def row(self) -> Array:
        """Read the next row, in the machine's byte order."""
        first: Array = self.rows(1)[0]
        return first

    def rows(self, count: int) -> Array:
        """Read the next ``count`` rows in the same way."""
        shape = (count, *self.shape[1:])
        size = math.prod(shape) * self.dtype.itemsize
        try:
            raw = self._file.read(size)
        except MemoryError:  # the size is that of the model's input, so not a fault of the file
            raise
        except _DAMAGED as error:
            raise BadInputError(
                f"{self._path}: array {self.name!r} is damaged ({_line(error)})", remedy="write the .npz again"
            ) from None
        if len(raw) != size:
            raise BadInputError(f"{self._path}: array {self.name!r} is cut short", remedy="write the .npz again")
        found: Array = np.frombuffer(raw, self.dtype).reshape(shape)
        # Pictures are large, and only read.
        return found if self.name == _PICTURES else found.astype(self.dtype.newbyteorder("="))


def _check_rows(path: Path, member: _Member, spec: TensorSpec) -> None:
    shapes = [list(spec.shape)] + ([list(spec.shape[1:])] if spec.shape[0] == 1 else [])
    dtypes = {spec.dtype} | ({"float32"} if spec.scale else set())
    if list(member.shape[1:]) not in shapes or member.dtype.newbyteorder("=").name not in dtypes:
        rows = ["samples", *shapes[-1]]
        expected = f"{' or '.join(sorted(dtypes))}[{', '.join(map(str, rows))}]"
        raise BadInputError(f"{path}: {member.name!r} is {member.dtype}{list(member.shape)}, expected {expected}")


def _declared(path: Path, inputs: Sequence[TensorSpec], preprocess: ImagePreprocess | None) -> ImagePreprocess:
    if preprocess is None or len(inputs) != 1:
        why = "declares no pre-processing" if preprocess is None else f"takes {len(inputs)} inputs"
        raise BadInputError(f"{path}: holds {_PICTURES!r}, but the model {why}", remedy="give 'inputs'")
    check_preprocess(preprocess, inputs[0])
    return preprocess


def _check_pictures(path: Path, member: _Member, channels: int) -> None:
    """Check uint8 [samples, height, width] with or without an axis of channels (optional if there is one)."""
    fits = (len(member.shape) == 4 and member.shape[-1] == channels) or (len(member.shape) == 3 and channels == 1)
    if not fits or member.dtype != np.uint8 or 0 in member.shape[1:]:
        raise BadInputError(
            f"{path}: {member.name!r} is {member.dtype}{list(member.shape)}, "
            f"expected uint8[samples, height, width, {channels}]"
        )
    if math.prod(member.shape[1:3]) > MAX_PIXELS:  # a highly compressed member may claim any size
        height, width = member.shape[1:3]
        raise BadInputError(
            f"{path}: pictures of {height} x {width} are over {MAX_PIXELS >> 20} megapixels",
            remedy="scale the pictures down",
        )
    if math.prod(member.shape[1:3]) * (channels + SCALED_BYTES) > MAX_DECODE_BYTES:
        height, width = member.shape[1:3]
        raise BadInputError(
            f"{path}: pictures of {height} x {width} take over {MAX_DECODE_BYTES >> 20} MiB",
            remedy="scale the pictures down",
        )


def _sample_of(found: Sample | BadSampleError) -> Sample:
    if isinstance(found, BadSampleError):
        raise found
    return found


def _as_input(path: Path, index: int, row: Array, spec: TensorSpec) -> Array:
    if row.dtype.kind == "f" and not np.isfinite(row).all():
        raise BadInputError(
            f"{path}: sample {index} holds values that are not finite", remedy="remove it, or correct its values"
        )
    shaped = row.reshape(spec.shape)
    return shaped if shaped.dtype == spec.dtype else to_stored(shaped, spec)


def _check_labels(path: Path, member: _Member, count: int) -> None:
    if member.shape != (count,) or member.dtype.kind not in "iu":
        raise BadInputError(
            f"{path}: 'labels' is {member.dtype}{list(member.shape)}, expected whole numbers [{count}]"
        )
    for first in range(0, count, _BLOCK_ROWS):
        least = int(member.rows(min(_BLOCK_ROWS, count - first)).min())
        if least < 0:
            raise BadInputError(f"{path}: 'labels' holds {least}", remedy="number the classes from 0")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

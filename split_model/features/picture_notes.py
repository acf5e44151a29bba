"""Measures the data beside the pixels in a picture file, before a decoder reads them into memory.

These are texts, profiles, thumbnails and programs' own chunks: Pillow reads them whole and several times, whatever
their size. This module reads only their lengths. It skips formats that are bounded by their file size
(`picture_files`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from split_model.errors import BadInputError

MAX_NOTES_BYTES = 16 << 20
#: Maximum number of pieces of a file: a picture of 64 megapixels has some ten thousand.
_MAX_PIECES = 1 << 17
_PNG_HEAD, _JPEG_HEAD = 8, 2
_PIXELS = b"IDAT"
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_SCAN = bytes([0xFF, _START_OF_SCAN])
#: Maximum scans of a JPEG file: each covers the whole picture, but can have a few bytes. Programs write about ten.
_MAX_SCANS = 100
_READ_BYTES = 1 << 20
#: JPEG's markers without a length.
_BARE = (0x01, *range(0xD0, 0xD9))
#: Bytes of a value of each TIFF type, by its number.
_TIFF_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)


def check_notes(path: Path, name: str) -> None:
    """Check the amount of data beside the pixels.

    Args:
        path: The file.
        name: Its format.

    Raises:
        BadInputError: More than `MAX_NOTES_BYTES`, in more pieces, or in more scans than any picture has.
        OSError: It cannot be read.

    """
    walk = _WALKS.get(name)
    if walk is None:
        return
    total = 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for number, length in enumerate(walk(file)):
            total += min(length, size)  # an incomplete part is read up to the file's end
            if total > MAX_NOTES_BYTES or number >= _MAX_PIECES:
                raise BadInputError(
                    f"{path}: a {name} file with over {MAX_NOTES_BYTES >> 20} MiB beside its pixels",
                    remedy="save it without its notes and profiles, or remove it",
                )
        if name == "JPEG" and _scans(file) > _MAX_SCANS:
            raise BadInputError(
                f"{path}: a JPEG file of over {_MAX_SCANS} scans", remedy="save it again, or remove it"
            )


def _scans(file: BinaryIO) -> int:
    """Scans of a JPEG file after the first one. No marker can occur in the data of a scan."""
    found, last = 0, b""
    while piece := file.read(_READ_BYTES):
        found += (last + piece).count(_SCAN)
        last = piece[-1:]
    return found


def _png(file: BinaryIO) -> Iterator[int]:
    file.seek(_PNG_HEAD)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        yield 0 if kind == _PIXELS else length
        file.seek(length + 4, os.SEEK_CUR)


def _jpeg(file: BinaryIO) -> Iterator[int]:
    """The segments before the first scan; the decoder reads the rest piece by piece."""
    file.seek(_JPEG_HEAD)
    while byte := file.read(1):
        if byte != b"\xff":  # Pillow looks for the next marker
            yield 1
            continue
        marker = file.read(1)
        if not marker or marker[0] in (_START_OF_SCAN, _END_OF_IMAGE):
            return
        if marker == b"\xff":
            file.seek(-1, os.SEEK_CUR)
            yield 1
            continue
        if marker[0] in _BARE or marker == b"\0":
            yield 2
            continue
        length = int.from_bytes(file.read(2), "big")
        yield length
        file.seek(max(0, length - 2), os.SEEK_CUR)


def _tiff(file: BinaryIO) -> Iterator[int]:
    """The values of the first directory."""
    order = "<" if file.read(2) == b"II" else ">"
    is_big = struct.unpack(f"{order}H", file.read(2).ljust(2, b"\0"))[0] == 43
    count_form, entry_form, inline = ("Q", "HHQ8x", 8) if is_big else ("H", "HHI4x", 4)
    file.seek(8 if is_big else 4)
    offset = _number(file, order, "Q" if is_big else "I")
    file.seek(min(offset, 1 << 62))
    entries = _number(file, order, count_form)
    size = struct.calcsize(f"{order}{entry_form}")
    for _ in range(entries):
        entry = file.read(size)
        if len(entry) < size:
            return
        _, kind, count = struct.unpack(f"{order}{entry_form}", entry)
        length = count * (_TIFF_SIZES[kind] if kind < len(_TIFF_SIZES) else 0)
        yield length if length > inline else size


def _number(file: BinaryIO, order: str, form: str) -> int:
    size = struct.calcsize(form)
    value: int = struct.unpack(f"{order}{form}", file.read(size).ljust(size, b"\0"))[0]
    return value


_WALKS: dict[str, Callable[[BinaryIO], Iterator[int]]] = {"PNG": _png, "JPEG": _jpeg, "TIFF": _tiff}

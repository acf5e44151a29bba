"""Reads arrays of foreign ``.npz`` files within a bound on memory. Nothing is unpickled.
NumPy reads a header of any length before it checks it, and allocates the array that a header claims before it
reads the data: so a compressed file of a megabyte could take gigabytes.
"""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from split_model.arrays import Array

#: The same bound as NumPy's, but checked before the header is read.
_MAX_HEADER_BYTES = 10_000
_ENDING = ".npy"
# Errors that NumPy raises on damaged headers.
_HEADER_ERRORS = (ValueError, SyntaxError, TypeError, KeyError, OverflowError, MemoryError, tokenize.TokenError)


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Read the header of an ``.npy`` stream, up to the array's first byte.

    Returns:
        Shape, whether the array is column-major, and its dtype.

    Raises:
        ValueError: It is not a header, or longer than that of any array of numbers.

    """
    version = np.lib.format.read_magic(file)
    length = file.read(2 if version == (1, 0) else 4)
    size = int.from_bytes(length, "little")
    if size > _MAX_HEADER_BYTES:
        raise ValueError(f"a header of {size} bytes")
    header = io.BytesIO(length + file.read(size))
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        return read(header)
    except _HEADER_ERRORS as error:
        raise ValueError(" ".join(str(error).split())) from None


def load_arrays(path: Path, is_wanted: Callable[[str], bool], *, most_bytes: int) -> dict[str, Array]:
    """Load the wanted arrays of numbers from an ``.npz``.

    Args:
        path: The file.
        is_wanted: Whether to load the array of a name.
        most_bytes: Maximum bytes of all wanted arrays together.

    Raises:
        OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error: It cannot be read, is not such
        a file, or is larger.

    """
    arrays: dict[str, Array] = {}
    left_bytes = most_bytes
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(_ENDING)
            if not is_wanted(name):
                continue
            with archive.open(info) as file:
                shape, column_major, dtype = read_header(file)
                size = math.prod(shape) * dtype.itemsize
                if dtype.hasobject or min(shape, default=0) < 0:
                    raise ValueError(f"{name!r} is {dtype}{list(shape)}")
                if size > left_bytes:
                    raise ValueError(f"{name!r} is {dtype}{list(shape)}: over {most_bytes} bytes in all")
                left_bytes -= size
                content = file.read(size)
            if len(content) != size:
                raise ValueError(f"{name!r} is cut short")
            flat = np.frombuffer(content, dtype)
            arrays[name] = flat.reshape(shape, order="F" if column_major else "C")
    return arrays

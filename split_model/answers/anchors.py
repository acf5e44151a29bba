"""Anchors of an SSD head: read from a file, or made from one grid for each stride."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from split_model.errors import BadInputError, MissingInputError
from split_model.features.npz import load_arrays

Floats = NDArray[np.float64]

MAX_ANCHORS = 1 << 18
_NAME = "anchors"
#: Limits in bytes: of the array, and of a text file.
_MAX_BYTES = MAX_ANCHORS * 4 * np.dtype(np.float64).itemsize
_MAX_TEXT_BYTES = 64 << 20


def grid(
    height: int, width: int, *, strides: Sequence[int], sides: Sequence[Sequence[tuple[float, float]]]
) -> Floats:
    """Make the anchors of several grids, in order.

    Args:
        height: Height of the model's input in pixels.
        width: Width of the model's input in pixels.
        strides: Pixels between two cells, one grid for each; a grid has ceil(height / stride) rows.
        sides: For each grid, height and width of each anchor of a cell, as fractions of the input.

    Returns:
        Centre y, centre x, height and width, fractions, float [n, 4]: by grid, row, column, and order of ``sides``.

    """
    found = []
    for stride, shapes in zip(strides, sides, strict=True):
        rows, columns = math.ceil(height / stride), math.ceil(width / stride)
        y, x = (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns
        centres = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 1, 2)
        of_cell = np.asarray(shapes, np.float64).reshape(1, -1, 2)
        cells, anchors = len(centres), of_cell.shape[1]
        both = [np.broadcast_to(part, (cells, anchors, 2)) for part in (centres, of_cell)]
        found.append(np.concatenate(both, axis=-1).reshape(-1, 4))
    return np.concatenate(found)


def read(path: Path) -> Floats:
    """Read anchors from an ``.npz`` (array ``anchors``) or ``.csv`` file: centre y, centre x, height, width.

    Raises:
        MissingInputError: There is no such file.
        BadInputError: It does not contain finite numbers [n, 4], fractions of the input, with positive sides.

    """
    try:
        found = _of_npz(path) if path.suffix.lower() == ".npz" else _of_text(path)
    except FileNotFoundError:
        raise MissingInputError(f"{path}: no such file of anchors", remedy="give an .npz or a .csv") from None
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        text = " ".join(str(error).split())[:200]
        raise BadInputError(
            f"{path}: not a file of anchors ({text})", remedy=f"give an .npz with {_NAME!r}, or a .csv"
        ) from None
    if found.ndim != 2 or found.shape[1] != 4 or not 1 <= len(found) <= MAX_ANCHORS:
        raise BadInputError(
            f"{path}: anchors are {list(found.shape)}", remedy="give [n, 4]: centre y, centre x, height, width"
        )
    if not np.isfinite(found).all() or not (found[:, 2:] > 0).all():
        raise BadInputError(
            f"{path}: an anchor is not finite, or has no height or width", remedy="write the file again"
        )
    return found


def _of_npz(path: Path) -> Floats:
    return load_arrays(path, lambda name: name == _NAME, most_bytes=_MAX_BYTES)[_NAME].astype(np.float64)


def _of_text(path: Path) -> Floats:
    if path.stat().st_size > _MAX_TEXT_BYTES:
        raise ValueError(f"over {_MAX_TEXT_BYTES >> 20} MiB")
    return np.loadtxt(path, np.float64, delimiter=",", ndmin=2, comments="#")


def write(path: Path, anchors: Floats) -> None:
    """Write an ``.npz``; the same anchors give the same bytes."""
    np.savez(path, anchors=anchors)

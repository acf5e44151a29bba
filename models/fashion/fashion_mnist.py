"""Reads Fashion-MNIST from the Debian package ``dataset-fashion-mnist``: gzipped IDX files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOLDER = Path("/usr/share/datasets/fashion-mnist")
SIDE = 28
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
#: The last pictures of the training file are for validation; the others for training. The test file is read once.
VALIDATION = 6_000


def images(part: str, folder: Path = FOLDER) -> NDArray[np.uint8]:
    """The pictures of ``train`` or ``t10k``: uint8 [n, 28, 28], 0 is background."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, SIDE, SIDE)


def labels(part: str, folder: Path = FOLDER) -> NDArray[np.uint8]:
    """The classes of ``train`` or ``t10k``: uint8 [n], 0 to 9."""
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=8)

"""Fashion-MNIST as the Debian package ``dataset-fashion-mnist`` has it, and how training bends its pictures."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

FOLDER = Path("/usr/share/datasets/fashion-mnist")
SIDE = 28
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
#: The last pictures of the training file judge choices; the others train. The test file is read once, at the end.
VALIDATION = 6_000
_SHIFT = 2  # pixels, either way


def images(part: str, folder: Path = FOLDER) -> NDArray[np.uint8]:
    """The pictures of ``train`` or ``t10k``: uint8 [n, 28, 28], 0 is background."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, SIDE, SIDE)


def labels(part: str, folder: Path = FOLDER) -> NDArray[np.uint8]:
    """The classes of ``train`` or ``t10k``: uint8 [n], 0 to 9."""
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=8)


def tensor(pictures: NDArray[np.uint8]) -> Any:
    """float32 [n, 1, 28, 28] in 0 to 1, laid out channels last."""
    scaled = torch.from_numpy(pictures.astype(np.float32) / 255)[:, None]
    return scaled.contiguous(memory_format=torch.channels_last)


def bent(batch: Any, generator: Any) -> Any:
    """The batch with each picture mirrored or not, shifted by up to two pixels, and a small square of it erased."""
    count = len(batch)
    mirror = torch.rand(count, generator=generator) < 0.5
    batch = torch.where(mirror[:, None, None, None], batch.flip(3), batch)
    padded = functional.pad(batch, (_SHIFT,) * 4)[:, 0]
    rows, columns = torch.randint(0, 2 * _SHIFT + 1, (2, count), generator=generator)
    side = torch.arange(SIDE)
    moved = padded[
        torch.arange(count)[:, None, None], (rows[:, None] + side)[:, :, None], (columns[:, None] + side)[:, None]
    ]
    top, left = torch.randint(-4, SIDE, (2, count, 1), generator=generator)
    size = torch.randint(0, 9, (count, 1), generator=generator)
    down, across = ((side >= start) & (side < start + size) for start in (top, left))
    moved = moved.masked_fill(down[:, :, None] & across[:, None, :], 0.0)
    return moved[:, None].contiguous(memory_format=torch.channels_last)

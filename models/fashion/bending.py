"""Converts pictures to tensors for training, and augments them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from models.fashion.fashion_mnist import SIDE

_SHIFT = 2  # pixels, either way


def tensor(pictures: NDArray[np.uint8]) -> Any:
    """float32 [n, 1, 28, 28] in 0 to 1, laid out channels last."""
    scaled = torch.from_numpy(pictures.astype(np.float32) / 255)[:, None]
    return scaled.contiguous(memory_format=torch.channels_last)


def bent(batch: Any, generator: Any) -> Any:
    """Augment a batch: each picture is mirrored or not, shifted by up to two pixels, with a small square erased."""
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

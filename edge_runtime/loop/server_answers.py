"""Unpacks a server's answer into arrays, if it has the model's outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model.bundle.manifest import ITEM_BYTES, TensorSpec
from split_model.protocol.device import Answered

Array = NDArray[Any]


def unpack(answered: Answered, outputs: Sequence[TensorSpec]) -> list[Array] | None:
    """Return the output tensors as read-only views of the payload; None if they are not the model's."""
    told = answered.answer.tensors
    if len(told) != len(outputs):
        return None
    if not all(spec.fits(tensor.dtype, tensor.shape) for spec, tensor in zip(outputs, told, strict=True)):
        return None
    sizes = [math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype] for tensor in told]
    if len(answered.payload) != sum(sizes):
        return None
    found, offset = [], 0
    for tensor, size in zip(told, sizes, strict=True):
        raw = answered.payload[offset : offset + size]
        found.append(np.frombuffer(raw, tensor.dtype).reshape(tensor.shape))
        offset += size
    return found

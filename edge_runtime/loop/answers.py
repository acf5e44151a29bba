"""What the server answered, checked against the model's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model.bundle.manifest import TensorSpec
from split_model.protocol.device import Answered

Array = NDArray[Any]


def unpack(answered: Answered, outputs: Sequence[TensorSpec]) -> list[Array] | None:
    """The output tensors, read-only views of the payload; None where they are not those of the model."""
    told = tuple((tensor.dtype, tuple(tensor.shape)) for tensor in answered.answer.tensors)
    if told != tuple((spec.dtype, spec.shape) for spec in outputs):
        return None
    if len(answered.payload) != sum(spec.nbytes for spec in outputs):
        return None
    found, offset = [], 0
    for spec in outputs:
        raw = answered.payload[offset : offset + spec.nbytes]
        found.append(np.frombuffer(raw, spec.dtype).reshape(spec.shape))
        offset += spec.nbytes
    return found

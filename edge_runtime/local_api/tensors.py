"""Tensors of the local API: types and shapes in the header, little-endian values in the body. Needs NumPy only."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from split_model.arrays import Array
from split_model.errors import ProtocolError

#: One tensor in a header: element type, dimensions.
Spec: TypeAlias = "tuple[str, tuple[int, ...]]"

DTYPES = ("float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool")


def nbytes_of(spec: Spec) -> int:
    """Bytes of a tensor's values."""
    dtype, shape = spec
    return math.prod(shape) * np.dtype(dtype).itemsize


def specs_of(tensors: Sequence[Array]) -> tuple[Spec, ...]:
    """Element types and shapes for a header; `ProtocolError` for a type that the protocol does not have."""
    for tensor in tensors:
        if tensor.dtype.name not in DTYPES:
            raise ProtocolError(f"a tensor of {tensor.dtype.name}", remedy=f"send one of {', '.join(DTYPES)}")
    return tuple((tensor.dtype.name, tensor.shape) for tensor in tensors)


def values_of(tensors: Sequence[Array]) -> list[memoryview]:
    """The values as bytes; copied only if they are not in order."""
    ordered = (np.ascontiguousarray(tensor).reshape(-1) for tensor in tensors)
    return [_little(tensor).view(np.uint8).data for tensor in ordered]


def tensors_of(specs: Sequence[Spec], body: bytes | bytearray | memoryview) -> tuple[Array, ...]:
    """The tensors of a body, read-only; copied only if they are not aligned.

    Raises:
        ProtocolError: The body is longer or shorter than the tensors.

    """
    announced = sum(nbytes_of(spec) for spec in specs)
    if announced != len(body):
        raise ProtocolError(f"tensors of {announced} bytes announced, {len(body)} came")
    found, offset = [], 0
    for dtype, shape in specs:
        flat = np.frombuffer(body, dtype, count=math.prod(shape), offset=offset)
        offset += flat.nbytes
        array = _little(flat if flat.flags.aligned else flat.copy()).reshape(shape)
        array.flags.writeable = False
        found.append(array)
    return tuple(found)


def _little(array: Array) -> Array:
    """Convert to or from little-endian; no change on nearly all machines."""
    return array if sys.byteorder == "little" else array.byteswap()

"""The server's side of the noise release: turns a payload into arrays of noisy features.

The parts that depend only on the plan are computed once: `NoiseRecovery` has two rows of float32 for each tensor.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array
from split_model.privacy.layout import TensorLayout, lay_out
from split_model.privacy.packing import Bytes, unpack
from split_model.privacy.plan import QUANTISED, NoisePlan
from split_model.privacy.release import channel_numbers

Payload = bytes | bytearray | memoryview | NDArray[np.uint8]


class NoiseRecovery:
    """Turns the payloads of one plan into features.

    Values are on the grid and may be outside the clip range, by the tails of the noise; quantised and float16
    tensors saturate at the limits of their dtype. Takes up to 16 kB per tensor. Thread-safe.
    """

    def __init__(self, plan: NoisePlan) -> None:
        self.plan = plan
        self._values, self._bits = plan.values, plan.spec.bits
        self._tensors = tuple(_Tensor(plan, at, layout) for at, layout in enumerate(lay_out(plan.tensors)))

    def __call__(self, payload: Payload) -> list[Array]:
        """Recover one payload to new arrays of the tensors' shapes and dtypes; `ProtocolError`: wrong length."""
        wire = unpack(np.frombuffer(payload, np.uint8), self._values, self._bits)
        return [tensor.restore(wire) for tensor in self._tensors]


class _Tensor:
    """One tensor: a value on the wire times ``step``, plus ``low``, both tiled to the layout's rows."""

    def __init__(self, plan: NoisePlan, at: int, layout: TensorLayout) -> None:
        tensor = plan.tensors[at]
        low, width, steps, tail = channel_numbers(plan, at)
        step = width / steps
        low = low - tail * step
        if tensor.dtype in QUANTISED:
            low, step = low / tensor.scale + tensor.zero_point, step / tensor.scale
        self._shape, self._first, self._last = tensor.shape, layout.first, layout.first + layout.size
        self._step, self._low = layout.tiled(step, np.float32), layout.tiled(low, np.float32)
        self._pieces = layout.pieces
        self._finish = _finisher(tensor.dtype)

    def restore(self, wire: Bytes) -> Array:
        """Restore the tensor from the integers of the whole frame."""
        values = wire[self._first : self._last]
        real = np.empty(values.size, np.float32)
        for piece in self._pieces:
            part = real[piece.start : piece.stop].reshape(piece.rows, piece.width)
            np.multiply(values[piece.start : piece.stop].reshape(part.shape), self._step[: piece.width], out=part)
            np.add(part, self._low[: piece.width], out=part)
        return self._finish(real).reshape(self._shape)


def _finisher(dtype: str) -> Callable[[NDArray[np.float32]], Array]:
    """Return the conversion from float32 to a tensor's dtype."""
    if dtype == "float32":
        return lambda real: real
    if dtype == "float16":
        largest = float(np.finfo(np.float16).max)
        return lambda real: np.clip(real, -largest, largest, out=real).astype(np.float16)
    info = np.iinfo(dtype)
    return lambda real: np.clip(np.rint(real, out=real), info.min, info.max, out=real).astype(dtype)


def recover(plan: NoisePlan, payload: Payload) -> list[Array]:
    """Recover a single payload; for many of one plan use a `NoiseRecovery`."""
    return NoiseRecovery(plan)(payload)

"""The device's side of the noise release: features in, one protected payload of fixed length out.

The hot path uses float32 and integers; the payload's length and the number of passes are independent of the
content. Which mechanism this is and why it is private: `split_model.privacy.plan`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array
from split_model.bundle.manifest import TensorSpec
from split_model.errors import BadInputError
from split_model.privacy.layout import TensorLayout, lay_out, piece_values
from split_model.privacy.packing import pack, padded_values
from split_model.privacy.plan import QUANTISED, NoisePlan
from split_model.privacy.sampler import FIRST_BITS, Entropy, LaplaceSampler

_TINY = 1e-30  # a narrower clip range counts as empty: the channel is released as noise around one value


class NoiseRelease:
    """Releases the features of one cut, frame after frame, each with fresh noise.

    ``entropy(n)`` gives n fresh bytes from a source fit for cryptography, such as `os.urandom`. Holds up
    to 2 MiB of tables and scratch for the largest tensor. One thread at a time.
    """

    def __init__(self, plan: NoisePlan, *, entropy: Entropy) -> None:
        self.plan = plan
        self._sampler = LaplaceSampler(plan.classes, entropy=entropy)
        self._layouts = lay_out(plan.tensors)
        self._channels = [_ChannelRows(plan, at, layout) for at, layout in enumerate(self._layouts)]
        largest = piece_values(self._layouts)
        self._real = np.empty(largest, np.float32)
        self._step = np.empty(largest, np.int16)
        longest = max(layout.size for layout in self._layouts)
        self._cells = np.empty(longest, np.uint16)
        self._noise = np.empty(longest, np.int16)
        counts = np.zeros(len(plan.classes), np.int64)
        for tensor, class_of in zip(plan.tensors, plan.class_of, strict=True):
            np.add.at(counts, list(class_of), tensor.size // len(class_of))
        self._entropy_bytes = self._sampler.reserve_bytes(counts.tolist())

    def __call__(self, features: Sequence[Array]) -> NDArray[np.uint8]:
        """Release one frame: arrays of the plan's shapes and dtypes to a new uint8 array [payload_bytes].

        Raises `BadInputError` for arrays that do not fit the plan. NaN is released as the low end of the clip
        range, infinities as its ends.
        """
        plan = self.plan
        if len(features) != len(plan.tensors):
            raise BadInputError(f"got {len(features)} feature arrays, the plan needs {len(plan.tensors)}")
        for tensor, feature in zip(plan.tensors, features, strict=True):
            _check(tensor, feature)
        wire = np.zeros(padded_values(plan.values, plan.spec.bits), np.uint8)
        self._sampler.fetch(self._entropy_bytes)
        with np.errstate(over="ignore", invalid="ignore"):  # infinities and NaN are clipped in _add
            for feature, rows, layout in zip(features, self._channels, self._layouts, strict=True):
                noise = self._noise[: layout.size]
                self._sampler.draw(noise, self._cells[: layout.size], rows.classes, layout)
                self._add(feature.reshape(-1), noise, wire[layout.first : layout.first + layout.size], rows, layout)
        return pack(wire, plan.spec.bits)

    def _add(
        self,
        feature: Array,
        noise: NDArray[np.int16],
        wire: NDArray[np.uint8],
        rows: _ChannelRows,
        layout: TensorLayout,
    ) -> None:
        highest = np.int16(self.plan.classes[0].wire_max)
        for piece in layout.pieces:
            width = piece.width
            real = self._real[: piece.stop - piece.start].reshape(piece.rows, width)
            step = self._step[: real.size].reshape(real.shape)
            np.subtract(feature[piece.start : piece.stop].reshape(real.shape), rows.low[:width], out=real)
            np.multiply(real, rows.scale[:width], out=real)
            np.rint(real, out=real)
            # Now integers or not finite: clipping them here is clipping integers. fmax takes NaN to the low end.
            np.fmax(real, rows.bottom[:width], out=real)
            np.minimum(real, rows.top[:width], out=real)
            np.copyto(step, real, casting="unsafe")
            np.add(step, noise[piece.start : piece.stop].reshape(real.shape), out=step)
            np.maximum(step, np.int16(0), out=step)
            np.minimum(step, highest, out=step)
            np.copyto(wire[piece.start : piece.stop].reshape(real.shape), step, casting="unsafe")


class _ChannelRows:
    """Per-channel parameters of one tensor, tiled to the layout's rows.

    A stored value v becomes clip(rint((v - low)·scale), bottom, top): T..T+L, so that 0 is the low end
    of the wire range.
    """

    def __init__(self, plan: NoisePlan, at: int, layout: TensorLayout) -> None:
        low, width, steps, tail = channel_numbers(plan, at)
        tensor = plan.tensors[at]
        scale = np.divide(steps, width, out=np.zeros_like(width), where=width > 0)
        low = np.where(width > 0, low - tail * np.divide(width, steps), low)
        if tensor.dtype in QUANTISED:
            low, scale = low / tensor.scale + tensor.zero_point, scale * tensor.scale
        self.classes = layout.tiled([index << FIRST_BITS for index in plan.class_of[at]], np.uint16)
        self.low = layout.tiled(low, np.float32)
        self.scale = layout.tiled(scale, np.float32)
        self.bottom = layout.tiled(tail, np.float32)
        self.top = layout.tiled(tail + steps, np.float32)


def channel_numbers(
    plan: NoisePlan, at: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(low, width, L, T) of each channel of tensor ``at``, float64 [C]; width 0 if there is no range."""
    known = plan.calibration[at]
    low = np.array(known.clip_low, np.float64)
    width = np.array(known.clip_high, np.float64) - low
    grids = [plan.classes[index] for index in plan.class_of[at]]
    steps = np.array([grid.steps for grid in grids], np.float64)
    tail = np.array([grid.tail for grid in grids], np.float64)
    return low, np.where(width < _TINY, 0.0, width), steps, tail


def _check(tensor: TensorSpec, feature: Array) -> None:
    if feature.shape != tensor.shape or feature.dtype != np.dtype(tensor.dtype):
        raise BadInputError(
            f"tensor {tensor.name!r}: got {feature.dtype} {feature.shape}, the plan needs {tensor.dtype} "
            f"{tensor.shape}"
        )

"""The shape of an inverse network as plain steps, which torch trains and NumPy runs.

A stored attacker is these steps and their weights, so that ``split-model preview`` can run it without torch. A
fully convolutional body works at the resolution of the features; the last convolution makes a block of pixels of
every cell, so that no layer works at the resolution of a large picture.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile

import msgspec
import numpy as np
from numpy.typing import NDArray

from split_model.errors import BadInputError

Floats = NDArray[np.float32]

_WIDTH = 64
_BLOCKS = 3
_SEED_SIDE = 7
_HIDDEN = 384
#: A cell of the last layer makes at most this many pixels a side.
_LARGEST_BLOCK = 4
#: Logits beyond this are 0 or 1 in float32.
_SURE = 80.0


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """All that the steps follow from.

    ``dense``: the live tensors are vectors. ``cells``: height and width of the largest live map, of a vector those
    of the seed that it is spread to. ``inputs``: channels of all live tensors together. ``scales``: by live tensor,
    its divisor. ``picture``: height, width, channels.
    """

    dense: bool
    inputs: int
    cells: tuple[int, int]
    scales: tuple[float, ...]
    picture: tuple[int, int, int]

    @classmethod
    def of(cls, released: Sequence[Floats], picture: tuple[int, int, int]) -> Shape:
        """Of one release: the live tensors [1, ...] in real units, and the picture that it came from."""
        scales = tuple(float(np.std(one)) or 1.0 for one in released)
        dense = all(one.ndim != 4 or one.shape[1] * one.shape[2] == 1 for one in released)
        if dense:
            cells = (min(_SEED_SIDE, picture[0]), min(_SEED_SIDE, picture[1]))
            return cls(
                dense=True, inputs=sum(one.size for one in released), cells=cells, scales=scales, picture=picture
            )
        maps = [one for one in released if one.ndim == 4]
        largest = max(maps, key=lambda one: one.shape[1] * one.shape[2])
        inputs = sum(one.shape[-1] if one.ndim == 4 else one.size for one in released)
        cells = (largest.shape[1], largest.shape[2])
        return cls(dense=False, inputs=inputs, cells=cells, scales=scales, picture=picture)

    def steps(self) -> list[tuple[str, tuple[int, ...]]]:
        """The layers: name and sizes of each."""
        found: list[tuple[str, tuple[int, ...]]] = []
        if self.dense:
            seed = self.cells[0] * self.cells[1] * _WIDTH
            found += [("dense", (self.inputs, _HIDDEN)), ("relu", ()), ("dense", (_HIDDEN, seed)), ("relu", ())]
            found += [("seed", (_WIDTH, *self.cells))]
        else:
            found += [("conv", (self.inputs, _WIDTH)), ("relu", ())]
        found += [("block", (_WIDTH,))] * _BLOCKS
        cells = self.cells
        while self.picture[0] / cells[0] > _LARGEST_BLOCK or self.picture[1] / cells[1] > _LARGEST_BLOCK:
            found += [("double", ()), ("conv", (_WIDTH, _WIDTH)), ("relu", ())]
            cells = (cells[0] * 2, cells[1] * 2)
        side = max(1, -(-self.picture[0] // cells[0]), -(-self.picture[1] // cells[1]))
        found += [("conv", (_WIDTH, self.picture[2] * side * side)), ("pixels", (side,))]
        return found

    @property
    def macs(self) -> int:
        """Multiply-adds for one picture."""
        total, cells = 0, self.cells[0] * self.cells[1]
        for name, sizes in self.steps():
            if name == "dense":
                total += sizes[0] * sizes[1]
            elif name == "double":
                cells *= 4
            elif name in ("conv", "block"):
                total += 9 * cells * sizes[0] * (sizes[1] if name == "conv" else 2 * sizes[0])
        return total

    def maps(self, arrived: Sequence[Sequence[Floats]]) -> Floats:
        """Releases of n frames as the network's input: [n, inputs], or [n, inputs, height, width].

        Smaller maps are repeated to the size of the largest, vectors everywhere.
        """
        parts = [
            np.concatenate(one).astype(np.float32) / np.float32(scale)
            for one, scale in zip(zip(*arrived, strict=True), self.scales, strict=True)
        ]
        if self.dense:
            return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        return np.concatenate([_spread(part, self.cells) for part in parts], axis=1)


@dataclass(frozen=True)
class Decoder:
    """A trained network. ``weights``: of every convolution and dense layer in order, kernel and bias."""

    shape: Shape
    weights: tuple[Floats, ...]

    def __call__(self, arrived: Sequence[Sequence[Floats]]) -> Floats:
        """Pictures [n, height, width, channels] in 0 to 1 of one release of each frame."""
        return np.stack([self._one(self.shape.maps([one])[0]) for one in arrived])

    def _one(self, values: Floats) -> Floats:
        weights = iter(self.weights)
        for name, sizes in self.shape.steps():
            if name == "dense":
                values = next(weights) @ values + next(weights)
            elif name == "conv":
                values = _convolve(values, next(weights), next(weights))
            elif name == "block":
                inner = np.maximum(_convolve(values, next(weights), next(weights)), 0)
                values = values + _convolve(inner, next(weights), next(weights))
            elif name == "relu":
                values = np.maximum(values, 0)
            elif name == "seed":
                values = values.reshape(sizes)
            elif name == "double":
                values = values.repeat(2, axis=1).repeat(2, axis=2)
            else:
                values = _pixels(values, sizes[0])
        height, width, _ = self.shape.picture
        logits = np.clip(values[:, :height, :width], -_SURE, _SURE)
        shown: Floats = (1 / (1 + np.exp(-logits))).transpose(1, 2, 0)
        return shown.astype(np.float32)

    def to_bytes(self) -> bytes:
        """A file that `from_bytes` reads: the same bytes for the same network."""
        out = io.BytesIO()
        shape = np.frombuffer(msgspec.json.encode(self.shape), np.uint8)
        # Not compressed: zip files of compressed arrays differ between versions of zlib.
        arrays: dict[str, Any] = {f"w{at:03}": one.astype(np.float16) for at, one in enumerate(self.weights)}
        np.savez(out, shape=shape, **arrays)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, source: str) -> Decoder:
        """Read it. Raises `BadInputError`, with the ``source`` named, where it is no stored attacker."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                shape = msgspec.json.decode(file["shape"].tobytes(), type=Shape)
                names = sorted(name for name in file.files if name != "shape")
                weights = tuple(file[name].astype(np.float32) for name in names)
        except (ValueError, KeyError, OSError, EOFError, BadZipFile, msgspec.DecodeError) as error:
            raise BadInputError(
                f"{source}: not a stored attacker: {error}", remedy="run 'split-model audit ... --store' again"
            ) from None
        wanted = [shapes for name, sizes in shape.steps() for shapes in weight_shapes(name, sizes)]
        if [one.shape for one in weights] != wanted:
            raise BadInputError(
                f"{source}: its weights do not fit its shape", remedy="run 'split-model audit ... --store' again"
            )
        return cls(shape, weights)


def weight_shapes(name: str, sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes of the arrays that one layer has: kernels and biases."""
    if name == "dense":
        return [(sizes[1], sizes[0]), (sizes[1],)]
    if name == "conv":
        return [(sizes[1], sizes[0], 3, 3), (sizes[1],)]
    if name == "block":
        return [(sizes[0], sizes[0], 3, 3), (sizes[0],)] * 2
    return []


def torch_forward(steps: Sequence[tuple[str, tuple[int, ...]]], weights: Sequence[Any], values: Any) -> Any:
    """The same layers on torch tensors [n, ...], before the sigmoid: what training differentiates."""
    from torch.nn import functional

    ahead = iter(weights)
    for name, sizes in steps:
        if name == "dense":
            values = functional.linear(values, next(ahead), next(ahead))
        elif name == "conv":
            values = functional.conv2d(values, next(ahead), next(ahead), padding=1)
        elif name == "block":
            inner = functional.relu(functional.conv2d(values, next(ahead), next(ahead), padding=1))
            values = values + functional.conv2d(inner, next(ahead), next(ahead), padding=1)
        elif name == "relu":
            values = functional.relu(values)
        elif name == "seed":
            values = values.reshape(len(values), *sizes)
        elif name == "double":
            values = functional.interpolate(values, scale_factor=2.0, mode="nearest")
        else:
            values = functional.pixel_shuffle(values, sizes[0])
    return values


def _spread(part: Floats, cells: tuple[int, int]) -> Floats:
    """One live tensor [n, ...] as maps [n, channels, height, width]."""
    maps = part.transpose(0, 3, 1, 2) if part.ndim == 4 else part.reshape(len(part), -1, 1, 1)
    rows, columns = (np.arange(size) * have // size for size, have in zip(cells, maps.shape[2:], strict=True))
    return maps[:, :, rows][:, :, :, columns]


def _convolve(values: Floats, kernel: Floats, bias: Floats) -> Floats:
    """3 x 3 with zeros around it: [channels, height, width], a product for each of the nine places."""
    channels, height, width = values.shape
    padded = np.zeros((channels, height + 2, width + 2), np.float32)
    padded[:, 1:-1, 1:-1] = values
    out = np.repeat(bias[:, None], height * width, axis=1)
    for down in range(3):
        for across in range(3):
            part = padded[:, down : down + height, across : across + width].reshape(channels, -1)
            out += kernel[:, :, down, across] @ part
    return out.reshape(-1, height, width)


def _pixels(values: Floats, side: int) -> Floats:
    channels, height, width = values.shape
    blocks = values.reshape(channels // side**2, side, side, height, width)
    found: Floats = blocks.transpose(0, 3, 1, 4, 2).reshape(channels // side**2, height * side, width * side)
    return found

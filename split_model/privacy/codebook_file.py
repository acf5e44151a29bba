"""The file of a codebook: an encoder of features to codewords, and a decoder of codewords to features.

An ``.npz`` of plain arrays. The device reads the encoder, the server the decoder::

    pool       [tensors]              each tensor's map is averaged over blocks of this many rows and columns
    groups     [groups + 1]           group g takes the channels groups[g]..groups[g+1]-1, counted over all tensors
    weights_g  [codewords, inputs_g]  float32; the codeword of group g is the row with the largest weights·x + bias
    bias_g     [codewords]            float32
    meaning_t  [codewords, *shape]    of tensor t, in its dtype or float16: a codeword's features, by channel

x are a group's averaged features in real units, tensor after tensor, each flattened with its channels last.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array
from split_model.bundle.manifest import Codebook, TensorSpec
from split_model.bundle.store import sha256_of
from split_model.errors import BadBundleError, BadInputError
from split_model.features.npz import load_arrays
from split_model.features.preprocess import to_real
from split_model.privacy.layout import channels_of

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Grouping:
    """How features of some tensors are averaged and divided among groups of channels."""

    tensors: tuple[TensorSpec, ...]
    pool: tuple[int, ...]
    groups: tuple[int, ...]

    def inputs(self, features: Sequence[Array]) -> list[Floats]:
        """The inputs of each group's matrix: float32 [inputs_g]. ``features``: stored values of the tensors."""
        maps = [
            _averaged(to_real(one, spec), by)
            for one, spec, by in zip(features, self.tensors, self.pool, strict=True)
        ]
        return [
            np.concatenate([part[..., low:high].reshape(-1) for part, low, high in self._slices(maps, group)])
            for group in range(len(self.groups) - 1)
        ]

    def _slices(self, maps: Sequence[Array], group: int) -> list[tuple[Array, int, int]]:
        found, first = [], 0
        for one in maps:
            count = one.shape[-1]
            low = min(max(self.groups[group] - first, 0), count)
            high = min(max(self.groups[group + 1] - first, 0), count)
            if low < high:
                found.append((one, low, high))
            first += count
        return found


def _averaged(real: Floats, by: int) -> Floats:
    """Mean over blocks of ``by`` x ``by`` of a [1, H, W, C] map; the last blocks may be smaller."""
    if by == 1:
        return real
    for axis in (1, 2):
        starts = np.arange(0, real.shape[axis], by)
        sizes = np.diff(np.append(starts, real.shape[axis])).astype(np.float32)
        sums: Floats = np.add.reduceat(real, starts, axis=axis)
        sums /= sizes.reshape([-1 if at == axis else 1 for at in range(4)])
        real = sums
    return real


@dataclass(frozen=True)
class Encoder:
    """The device's half: features to codewords."""

    grouping: Grouping
    weights: tuple[Floats, ...]
    bias: tuple[Floats, ...]

    def __call__(self, features: Sequence[Array]) -> list[int]:
        """Find the codeword of each group; any features have one, even NaN and infinities."""
        with np.errstate(all="ignore"):
            return [
                int(np.argmax(weights @ inputs + bias))
                for weights, bias, inputs in zip(
                    self.weights, self.bias, self.grouping.inputs(features), strict=True
                )
            ]


@dataclass(frozen=True)
class Decoder:
    """The server's half: codewords to features."""

    tensors: tuple[TensorSpec, ...]
    groups: tuple[int, ...]
    tables: tuple[Array, ...]

    def __call__(self, codewords: Sequence[int]) -> list[Array]:
        """Look up arrays of the tensors' shapes and dtypes, each channel by the codeword of its group."""
        found, first = [], 0
        for spec, table in zip(self.tensors, self.tables, strict=True):
            channels = np.arange(first, first + channels_of(spec))
            group_of = np.searchsorted(self.groups, channels, side="right") - 1
            chosen = table[
                np.asarray(codewords)[group_of], ..., np.arange(len(channels))
            ]  # channels come first here
            found.append(np.ascontiguousarray(np.moveaxis(chosen, 0, -1), dtype=spec.dtype))
            first += len(channels)
        return found


def write(path: Path, encoder: Encoder, decoder: Decoder) -> None:
    """Write both halves; the same arrays give the same bytes."""
    arrays: dict[str, Array] = {
        "pool": np.array(encoder.grouping.pool, np.int32),
        "groups": np.array(encoder.grouping.groups, np.int32),
    }
    for group, (weights, bias) in enumerate(zip(encoder.weights, encoder.bias, strict=True)):
        arrays |= {f"weights_{group}": weights.astype(np.float32), f"bias_{group}": bias.astype(np.float32)}
    arrays |= {f"meaning_{at}": table for at, table in enumerate(decoder.tables)}
    np.savez(path, **arrays)  # type: ignore[arg-type]


def read_encoder(path: Path, book: Codebook, tensors: Sequence[TensorSpec]) -> Encoder:
    """Read the device's half of a codebook; `BadBundleError` if the file does not match the manifest."""
    pool, groups, arrays = _open(path, book, tensors, ("weights_", "bias_"))
    grouping = Grouping(tuple(tensors), pool, groups)
    sizes = [one.size for one in grouping.inputs([np.zeros(spec.shape, spec.dtype) for spec in tensors])]
    shapes = [(book.codewords, size) for size in sizes]
    weights = [_array(path, arrays, f"weights_{g}", shape, np.float32) for g, shape in enumerate(shapes)]
    bias = [_array(path, arrays, f"bias_{g}", (book.codewords,), np.float32) for g in range(book.groups)]
    return Encoder(grouping, tuple(weights), tuple(bias))


def read_decoder(path: Path, book: Codebook, tensors: Sequence[TensorSpec]) -> Decoder:
    """Read the server's half; errors as in `read_encoder`."""
    _, groups, arrays = _open(path, book, tensors, ("meaning_",))
    tables = [
        _array(path, arrays, f"meaning_{at}", (book.codewords, *spec.shape), stored_dtype(spec))
        for at, spec in enumerate(tensors)
    ]
    return Decoder(tuple(tensors), groups, tuple(tables))


def stored_dtype(spec: TensorSpec) -> type[np.generic]:
    """The dtype of a codeword's stored features: float16 for floats, the tensor's own for the rest."""
    return np.float16 if spec.dtype in ("float32", "float16") else np.dtype(spec.dtype).type


def _open(
    path: Path, book: Codebook, tensors: Sequence[TensorSpec], half: tuple[str, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Array]]:
    try:
        if sha256_of(path) != book.file.sha256:
            raise BadBundleError(
                f"{path}: changed since the bundle was made", remedy="copy or prepare the bundle again"
            )
        wanted = ("pool", "groups", *half)
        # `write` does not compress them.
        arrays = load_arrays(path, lambda name: name.startswith(wanted), most_bytes=path.stat().st_size)
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, BadBundleError):
            raise
        raise BadBundleError(f"{path}: not a codebook ({error})", remedy="prepare the bundle again") from None
    pool = _array(path, arrays, "pool", (len(tensors),), np.int32).tolist()
    groups = _array(path, arrays, "groups", (book.groups + 1,), np.int32).tolist()
    ends = (0, sum(map(channels_of, tensors)))
    fits = all(by == 1 or (by > 1 and len(spec.shape) == 4) for by, spec in zip(pool, tensors, strict=True))
    if not fits or (groups[0], groups[-1]) != ends or groups != sorted(set(groups)):
        raise BadBundleError(
            f"{path}: its groups are not those of the cut's channels", remedy="prepare the bundle again"
        )
    return tuple(pool), tuple(groups), arrays


def _array(
    path: Path, arrays: dict[str, Array], name: str, shape: tuple[int, ...], dtype: type[np.generic]
) -> Array:
    found = arrays.get(name)
    if found is None or found.shape != shape or found.dtype != dtype:
        raise BadBundleError(
            f"{path}: no {name!r} of {np.dtype(dtype)}{list(shape)}", remedy="prepare the bundle again"
        )
    return found


def check_groups(groups: int, tensors: Sequence[TensorSpec]) -> tuple[int, ...]:
    """The bounds of ``groups`` groups of about equal size; `BadInputError` if there are too few channels."""
    channels = sum(map(channels_of, tensors))
    if not 1 <= groups <= channels:
        raise BadInputError(f"{groups} groups of {channels} channels", remedy=f"take 1 to {channels} groups")
    return tuple(group * channels // groups for group in range(groups + 1))

"""Computes clip ranges (never empty) and ranks of one live tensor's channels over public samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array
from split_model.bundle.manifest import TensorSpec
from split_model.errors import BadModelError
from split_model.features.preprocess import to_real
from split_model.privacy.plan import MAX_BOUND

Floats = NDArray[np.float64]

_RELATIVE_WIDTH = 1e-3  # width of a constant channel, as a share of the tensor's median clip width
_LEAST_WIDTH = 1e-6


class ChannelStatistics:
    """Statistics of one live tensor: ``take`` values per sample and channel, and the ranks of its maps.

    ``key`` seeds the choice of values, so that the same data give the same numbers.
    """

    def __init__(self, spec: TensorSpec, *, where: str, key: tuple[int, ...], take: int, rank_samples: int) -> None:
        self._spec = spec
        self._where = where
        self._key = key
        self._take = take
        self._rank_samples = rank_samples
        self._values: list[NDArray[np.float32]] = []
        self._ranks: list[Floats] = []

    def add(self, index: int, stored: Array) -> None:
        """Add sample ``index``; raises `BadModelError` if it is not finite."""
        real = to_real(stored, self._spec)
        if not (np.abs(real) <= MAX_BOUND).all():  # NaN is not finite either; masks add the lowest float
            what = f"beyond {MAX_BOUND:g}" if np.isfinite(real).all() else "not finite"
            raise BadModelError(
                f"{self._where}: {what} for calibration sample {index}", remedy="leave this cut out"
            )
        rows = real.reshape(-1, real.shape[-1])
        if len(rows) > self._take:
            generator = np.random.default_rng((*self._key, index))
            rows = rows[np.sort(generator.choice(len(rows), self._take, replace=False))]
        self._values.append(rows.copy())
        if index < self._rank_samples:
            self._ranks.append(channel_ranks(real))

    def mean_rank(self) -> Floats:
        """The mean rank of each channel's maps."""
        mean: Floats = np.mean(self._ranks, axis=0)
        return mean

    def clip_range(self, quantile: float) -> tuple[Floats, Floats]:
        """(low, high) of each channel in real units, never equal: quantiles 1 - ``quantile`` and ``quantile``."""
        rows = np.concatenate(self._values)
        low, high = np.quantile(rows, [1 - quantile, quantile], axis=0).astype(np.float64)
        return widened(low, high, least=self._spec.scale)


def statistics_of(
    cut: int, tensors: Sequence[TensorSpec], *, seed: int, take: int, rank_samples: int
) -> list[ChannelStatistics]:
    """The statistics of every live tensor of a cut; see `ChannelStatistics`."""
    return [
        ChannelStatistics(
            tensor,
            where=f"cut {cut}, tensor {tensor.name!r}",
            key=(seed, cut, at),
            take=take,
            rank_samples=rank_samples,
        )
        for at, tensor in enumerate(tensors)
    ]


def widened(low: Floats, high: Floats, *, least: float = 0.0) -> tuple[Floats, Floats]:
    """Widen empty clip ranges: a nearly constant channel gets a tiny width about its middle.

    The tiny width is the largest of a thousandth of the tensor's median width, ``least`` (one step of a quantised
    tensor) and a millionth of the channel's own size.
    """
    width = high - low
    moving = width[width > 0]
    floor = max(_RELATIVE_WIDTH * float(np.median(moving)) if moving.size else 0.0, least)
    middle = (low + high) / 2
    needed = np.maximum(floor, _LEAST_WIDTH * np.maximum(np.abs(middle), 1.0))
    narrow = width < needed
    return np.where(narrow, middle - needed / 2, low), np.where(narrow, middle + needed / 2, high)


def channel_ranks(real: NDArray[np.float32]) -> Floats:
    """Matrix rank of each channel's map of a [1, H, W, C] tensor; 1 for every channel of any other shape."""
    if real.ndim != 4 or real.shape[0] != 1:
        return np.ones(real.shape[-1])
    ranks: Floats = np.linalg.matrix_rank(np.moveaxis(real[0], -1, 0)).astype(np.float64)
    return ranks

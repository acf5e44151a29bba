"""Splits the public pictures into halves: each half calibrates, and is measured with the other's result.

A few dozen pictures are too few to set some aside. So every picture is measured, under clip ranges, weights and an
allocation that were learned without it: from the pictures of the other half, and crops of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from split_model.arrays import Array
from split_model.features.data import Data, ImageFolder
from split_model.prepare.calibrate.augmentation import calibration_samples

Inputs = tuple[Array, ...]

#: Maximum pictures for calibration in both halves, and maximum pictures that are measured.
_MOST_TAUGHT, _MOST_MEASURED = 128, 60


@dataclass(frozen=True)
class Half:
    """One half. ``taught``: inputs for calibration: first ``pictures`` pictures, then crops of them.

    ``measured``: the other half's pictures, without crops.
    """

    taught: Sequence[Inputs]
    pictures: int
    measured: Sequence[Inputs]


@dataclass(frozen=True)
class Halves:
    """Both halves; empty for a single picture. ``unit``: the name of a sample of the data."""

    halves: tuple[Half, ...]
    unit: Literal["pictures", "samples"]

    @property
    def measured(self) -> list[Inputs]:
        """All measured pictures, half after half."""
        return [one for half in self.halves for one in half.measured]


def make_halves(data: Data, *, samples: int, seed: int) -> Halves:
    """Split data by picture; ``samples``: maximum inputs of each half.

    The same data, number and seed give the same halves.
    """
    unit: Literal["pictures", "samples"] = "pictures" if isinstance(data, ImageFolder) else "samples"
    known = _spread(range(len(data)), _MOST_TAUGHT)
    sides = known[0::2], known[1::2]
    if not sides[1]:
        return Halves((), unit)
    looked = [_spread(side, _MOST_MEASURED // 2) for side in sides]
    wanted = {at for side in looked for at in side}
    kept = {at: sample.tensors for at, sample in enumerate(data) if at in wanted}
    taught = [calibration_samples(data, count=samples, seed=seed, only=side) for side in sides]
    return Halves(
        tuple(
            Half(taught[side], min(len(sides[side]), samples), [kept[at] for at in looked[1 - side]])
            for side in (0, 1)
        ),
        unit,
    )


def _spread(positions: Sequence[int], most: int) -> list[int]:
    """At most ``count`` positions, evenly spread."""
    chosen = np.linspace(0, len(positions) - 1, min(most, len(positions))).round()
    return [positions[int(at)] for at in chosen]

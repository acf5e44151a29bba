"""Augments public pictures for calibration by crops and mirror images.

Quantiles of a vector have one value per sample and channel, so a dozen photographs are too few. Crops and mirror
images of a photograph are like further photographs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array
from split_model.features.data import Data, ImageFolder, Sample
from split_model.features.picture_files import open_picture
from split_model.features.preprocess import picture_tensor

DEFAULT_SAMPLES = 128
_MOST_VIEWS = 16
_LEAST_SHARE = 0.5  # of each side; smaller crops show texture instead of things


def calibration_samples(
    data: Data, *, count: int = DEFAULT_SAMPLES, seed: int = 0, only: Collection[int] | None = None
) -> list[tuple[Array, ...]]:
    """Make at most ``count`` model inputs: first the data, evenly spread, then crops of its pictures.

    Arrays of an ``.npz`` are not augmented, as their meaning is unknown. ``only``: the positions in the data to
    use. The same data, count, seed and positions give the same samples.
    """
    known = range(len(data)) if only is None else sorted(only)
    chosen = {known[int(at)] for at in np.linspace(0, len(known) - 1, min(count, len(known))).round()}
    samples = [sample.tensors for at, sample in enumerate(data) if at in chosen]
    if not isinstance(data, ImageFolder) or len(samples) >= count:
        return samples
    for view in range(1, _MOST_VIEWS):
        for at in known:
            if len(samples) >= count:
                return samples
            generator = np.random.default_rng((seed, view, at))
            picture = random_crop(open_picture(data.paths[at], data.preprocess), generator)
            samples.append((picture_tensor(picture, data.preprocess, data.inputs[0]),))
    return samples


class AugmentedPictures(Data):
    """Pictures and crops of them: at least ``least`` samples, but at most 16 of each picture.

    A crop has its picture's name and label. Crops are made during iteration, always the same.
    """

    def __init__(self, pictures: ImageFolder, *, least: int, seed: int = 0) -> None:
        self._pictures = pictures
        self._seed = seed
        self._views = min(_MOST_VIEWS, -(-least // len(pictures)))

    def __len__(self) -> int:
        """Number of pictures and crops."""
        return len(self._pictures) * self._views

    def __iter__(self) -> Iterator[Sample]:
        """Yield every picture, then its crops."""
        preprocess, spec = self._pictures.preprocess, self._pictures.inputs[0]
        for at, sample in enumerate(self._pictures):
            yield sample
            assert sample.path is not None
            for view in range(1, self._views):
                generator = np.random.default_rng((self._seed, view, at))
                crop = random_crop(open_picture(sample.path, preprocess), generator)
                yield replace(sample, tensors=(picture_tensor(crop, preprocess, spec),))


def random_crop(picture: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """A random crop of at least half of each side of a [height, width, channels] picture, mirrored or not."""
    height, width = picture.shape[:2]
    share = generator.uniform(_LEAST_SHARE, 1.0)  # the same share of both sides keeps the proportions
    tall, wide = max(1, round(height * share)), max(1, round(width * share))
    top, left = generator.integers(0, height - tall + 1), generator.integers(0, width - wide + 1)
    crop = picture[top : top + tall, left : left + wide]
    return np.ascontiguousarray(crop[:, ::-1] if generator.random() < 0.5 else crop)

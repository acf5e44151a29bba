"""Pictures as an attacker thinks of them, values from 0 to 1, and what the model is given of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array
from split_model.bundle import Bundle
from split_model.errors import BadBundleError
from split_model.features.preprocess import to_real, to_stored
from split_model.features.samples import Data

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PictureSpace:
    """The affine map between pictures [n, height, width, channels] in 0 to 1 and the model's only input.

    Attributes:
        bundle: Its manifest declares the pre-processing.
        mean: By channel, in 0 to 255, as the pre-processing has it.
        scale: The same.

    """

    bundle: Bundle
    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, bundle: Bundle) -> PictureSpace:
        """Take it from a bundle. Raises `BadBundleError` where the model takes no pictures."""
        preprocess = bundle.manifest.preprocess
        if preprocess is None or len(bundle.manifest.inputs) != 1:
            raise BadBundleError(
                f"{bundle.root}: the model takes no pictures, or their pre-processing is not declared",
                remedy="prepare the bundle with the pre-processing of pictures (docs/own-model.md)",
            )
        channels = preprocess.channels
        mean, scale = (
            np.resize(np.asarray(values, np.float32), channels) for values in (preprocess.mean, preprocess.scale)
        )
        return cls(bundle, mean, scale)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        preprocess = self.bundle.manifest.preprocess
        assert preprocess is not None
        return (*preprocess.crop, preprocess.channels)

    @property
    def nchw(self) -> bool:
        """Whether the model has the channels first."""
        preprocess = self.bundle.manifest.preprocess
        return preprocess is not None and preprocess.layout == "nchw"

    def pictures(self, inputs: Sequence[Array]) -> Floats:
        """Inputs of the model, [1, ...] each, as pictures [n, height, width, channels]."""
        spec = self.bundle.manifest.inputs[0]
        real = np.concatenate([to_real(one, spec) for one in inputs])
        if self.nchw:
            real = real.transpose(0, 2, 3, 1)
        found: Floats = np.clip((real * self.scale + self.mean) / 255, 0, 1).astype(np.float32)
        return found

    def inputs(self, pictures: Floats) -> list[Array]:
        """Pictures as inputs of the model, as it stores them."""
        real = ((pictures * 255 - self.mean) / self.scale).astype(np.float32)
        if self.nchw:
            real = real.transpose(0, 3, 1, 2)
        spec = self.bundle.manifest.inputs[0]
        return [to_stored(np.ascontiguousarray(one[None]), spec) for one in real]

    def torch_inputs(self, pictures: Any) -> Any:
        """The same for torch tensors, with a gradient."""
        import torch

        real = (pictures * 255 - torch.from_numpy(self.mean)) / torch.from_numpy(self.scale)
        return real.permute(0, 3, 1, 2) if self.nchw else real


def read_pictures(data: Data, space: PictureSpace, *, most: int, seed: int = 0) -> Floats:
    """Read up to ``most`` samples, chosen evenly at random, as pictures."""
    count = len(data)
    chosen = set(np.random.default_rng(seed).permutation(count)[:most].tolist())
    return space.pictures([sample.tensors[0] for at, sample in enumerate(data) if at in chosen])

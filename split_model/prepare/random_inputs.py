"""Makes random inputs of a model in a plausible range, to run it without data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from split_model.arrays import Array
from split_model.bundle.manifest import ImagePreprocess, TensorSpec


def random_inputs(
    specs: Sequence[TensorSpec],
    rng: np.random.Generator,
    *,
    preprocess: ImagePreprocess | None = None,
) -> list[Array]:
    """One set of test inputs in a plausible range.

    Float: the declared pre-processing of 0..255, else -1..1. 8- and 16-bit integers: all codes.
    32- and 64-bit integers: 0 or 1, because they may be indices into a table of unknown length.
    """
    return [_random(spec, rng, preprocess) for spec in specs]


def _random(spec: TensorSpec, rng: np.random.Generator, preprocess: ImagePreprocess | None) -> Array:
    if spec.dtype in ("float32", "float16"):
        low, high = -1.0, 1.0
        if preprocess is not None:
            pairs = [(mean, scale) for mean in preprocess.mean for scale in preprocess.scale]
            ends = [(value - mean) / scale for mean, scale in pairs for value in (0.0, 255.0)]
            low, high = min(ends), max(ends)
        return rng.uniform(low, high, spec.shape).astype(spec.dtype)
    if spec.dtype in ("int8", "uint8", "int16"):
        codes = np.iinfo(spec.dtype)
        return rng.integers(codes.min, codes.max, spec.shape, dtype=spec.dtype, endpoint=True)
    return rng.integers(0, 2, spec.shape).astype(spec.dtype)

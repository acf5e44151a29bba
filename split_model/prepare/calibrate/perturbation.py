"""Moves the values of one channel, and runs a tail on noisy features, for the sensitivity weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array
from split_model.bundle.manifest import TensorSpec
from split_model.errors import BadModelError
from split_model.interpreter import Interpreter
from split_model.prepare.outputs import real_outputs

Floats = NDArray[np.float64]


def finite_outputs(cut: int, tail: Interpreter, features: Sequence[Array]) -> list[Floats]:
    """Run a tail on features; `BadModelError` if the outputs are not finite."""
    outputs = real_outputs(tail, features)
    if not all(np.isfinite(output).all() for output in outputs):
        raise BadModelError(
            f"cut {cut}: the tail's outputs are not finite under noise", remedy="leave this cut out"
        )
    return outputs


def moved_channel(
    stored: Array, spec: TensorSpec, channel: int, by: float, generator: np.random.Generator
) -> tuple[Array, float]:
    """Move one channel by +-``by``, at least one step of its grid; returns it and the energy of the real move."""
    moved = stored.copy()
    before = stored[..., channel]
    signs = generator.integers(0, 2, before.shape) * 2 - 1
    if spec.scale:
        limits = np.iinfo(spec.dtype)
        steps = max(1, round(by / spec.scale))
        moved[..., channel] = np.clip(before.astype(np.int64) + signs * steps, limits.min, limits.max)
    else:
        moved[..., channel] = before + (signs * by).astype(stored.dtype)
    difference = (moved[..., channel].astype(np.float64) - before.astype(np.float64)) * (spec.scale or 1.0)
    return moved, float(np.sum(difference**2))

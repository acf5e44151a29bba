"""The best linear inverse of a release: ridge regression from what arrives to the picture, learned on public ones.

Trained on released features, noise and all, it is the Wiener filter of this mechanism: it knows which channels are
noisy and how pictures vary. How strongly to shrink is chosen on pictures it was not fitted to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_HELD_OUT = 0.1
_SHRINKAGE = (1e-4, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True)
class LinearInverse:
    """``picture = (released - centre) @ matrix + mean``. ``shrinkage``: of the features' mean variance."""

    matrix: Floats
    centre: Floats
    mean: Floats
    shrinkage: float

    def __call__(self, released: Floats) -> Floats:
        """float32 [n, features] to [n, pixels], not clipped."""
        found: Floats = np.matmul(released - self.centre, self.matrix, dtype=np.float32)
        found += self.mean
        return found


def fit(released: Floats, pictures: Floats) -> LinearInverse:
    """Fit to released features [n, features] and their pictures [n, pixels], both float32."""
    held = max(1, int(_HELD_OUT * len(released)))
    centre: Floats = released[held:].mean(0)
    mean: Floats = pictures[held:].mean(0)
    rows, targets = released[held:] - centre, pictures[held:] - mean
    fewer_rows = len(rows) < rows.shape[1]
    gram = (rows @ rows.T if fewer_rows else rows.T @ rows).astype(np.float64)
    unit = float(np.trace(gram)) / len(gram)
    values, vectors = np.linalg.eigh(gram)
    rotated = vectors.T @ (targets if fewer_rows else rows.T @ targets).astype(np.float64)
    best: LinearInverse | None = None
    least = np.inf
    for shrinkage in _SHRINKAGE:
        solved = vectors @ (rotated / (np.maximum(values, 0.0) + shrinkage * unit)[:, None])
        matrix = (rows.T @ solved if fewer_rows else solved).astype(np.float32)
        inverse = LinearInverse(matrix, centre, mean, shrinkage)
        error = float(np.mean((inverse(released[:held]) - pictures[:held]) ** 2))
        if error < least:
            best, least = inverse, error
    assert best is not None
    return best

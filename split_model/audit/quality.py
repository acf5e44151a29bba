"""How near a reconstruction comes: SSIM and PSNR of each picture, with intervals over pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model.audit.pictures import Floats

_RESAMPLES = 2000
_MOST_DB = 60.0


def similarity(found: Floats, truth: Floats) -> NDArray[np.float64]:
    """SSIM of each of [n, height, width, channels] in 0 to 1, with the window of Wang et al. (2004)."""
    from skimage.metrics import structural_similarity

    options: dict[str, Any] = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5}
    options |= {"use_sample_covariance": False, "channel_axis": -1}
    return np.array([structural_similarity(one, other, **options) for one, other in zip(found, truth, strict=True)])


def decibels(found: Floats, truth: Floats) -> NDArray[np.float64]:
    """PSNR of each, in dB; 60 at most."""
    error = ((found.astype(np.float64) - truth) ** 2).mean(axis=(1, 2, 3))
    worth: NDArray[np.float64] = np.minimum(_MOST_DB, -10 * np.log10(np.maximum(error, 1e-12)))
    return worth


def interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """The mean and its 95 % percentile interval over resampled pictures; the same values give the same one."""
    picked = np.random.default_rng(0).integers(0, values.size, (_RESAMPLES, values.size))
    low, high = np.quantile(values[picked].mean(axis=1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)

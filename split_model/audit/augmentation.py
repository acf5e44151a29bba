"""More public pictures out of few: crops, mirror images, other light, other colours, mixtures.

An attacker who has fifty photographs trains on thousands of their crops. The same pictures and number give the
same ones again.
"""

from __future__ import annotations

import numpy as np

from split_model.audit.pictures import Floats

_SMALLEST_CROP = 0.4
_MIXED = 0.15


def augmented(pictures: Floats, count: int, *, seed: int = 0) -> Floats:
    """Return ``count`` pictures [count, height, width, channels]: these, then variations of them."""
    generator = np.random.default_rng(seed)
    made = np.empty((max(count, len(pictures)), *pictures.shape[1:]), np.float32)
    made[: len(pictures)] = pictures
    for at in range(len(pictures), count):
        made[at] = _varied(pictures[at % len(pictures)], generator)
        if generator.random() < _MIXED:
            other = _varied(pictures[int(generator.integers(len(pictures)))], generator)
            share = generator.uniform(0.2, 0.8)
            made[at] = share * made[at] + (1 - share) * other
    return made[:count] if count < len(pictures) else made


def _varied(picture: Floats, generator: np.random.Generator) -> Floats:
    """One variation."""
    height, width, channels = picture.shape
    share = generator.uniform(_SMALLEST_CROP, 1.0)
    rows, columns = max(2, round(height * share)), max(2, round(width * share))
    top, left = int(generator.integers(height - rows + 1)), int(generator.integers(width - columns + 1))
    found = _resized(picture[top : top + rows, left : left + columns], height, width)
    if generator.random() < 0.5:
        found = found[:, ::-1]
    if channels == 3 and generator.random() < 0.3:
        found = found[..., generator.permutation(3)]
    gain, gamma = (
        generator.uniform(0.7, 1.3, channels if generator.random() < 0.5 else 1),
        generator.uniform(0.7, 1.4),
    )
    lit: Floats = np.clip(np.clip(found, 0, 1) ** gamma * gain, 0, 1).astype(np.float32)
    return lit


def _resized(part: Floats, height: int, width: int) -> Floats:
    """Bilinear."""
    rows, columns = (
        np.clip((np.arange(size) + 0.5) * have / size - 0.5, 0, have - 1)
        for size, have in ((height, part.shape[0]), (width, part.shape[1]))
    )
    above, left = rows.astype(int), columns.astype(int)
    below, right = np.minimum(above + 1, part.shape[0] - 1), np.minimum(left + 1, part.shape[1] - 1)
    down, across = (rows - above)[:, None, None], (columns - left)[None, :, None]
    top = part[above][:, left] * (1 - across) + part[above][:, right] * across
    bottom = part[below][:, left] * (1 - across) + part[below][:, right] * across
    found: Floats = (top * (1 - down) + bottom * down).astype(np.float32)
    return found

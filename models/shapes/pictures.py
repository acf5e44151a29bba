"""Generate pictures of discs, squares and triangles on textured grounds, with their boxes and masks.

usage: python -m models.shapes.pictures [-o DIR]

Writes ``public/`` and ``test/``, PNG files of several sizes, and ``test.json`` with the boxes of the test pictures.
The same seed gives the same pictures. NumPy draws them; Pillow only writes the files.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Picture

LABELS = ("disc", "square", "triangle")
SIDE = 96
_PUBLIC, _TEST = 96, 48
_SIZES = ((96, 96), (120, 160), (160, 120), (144, 256))
_MOST_SHAPES = 3
_GROUND = 0


@dataclass(frozen=True)
class Scene:
    """One picture. ``boxes``: float [n, 4], x0, y0, x1, y1 in pixels; ``classes``: of `LABELS`.

    ``mask``: uint8 [height, width], 0 for the ground, else 1 + class.
    """

    picture: Picture
    boxes: NDArray[np.float64]
    classes: tuple[int, ...]
    mask: NDArray[np.uint8]


def scene(rng: np.random.Generator, height: int = SIDE, width: int = SIDE) -> Scene:
    """Draw one picture of 1 to 3 shapes that do not cover each other's centres."""
    picture = _texture(rng, height, width, contrast=rng.uniform(8, 40))
    mask = np.zeros((height, width), np.uint8)
    taken: list[tuple[float, float, float]] = []
    classes = []
    for _ in range(int(rng.integers(1, _MOST_SHAPES + 1))):
        radius = min(rng.uniform(0.10, 0.24) * max(height, width), 0.45 * min(height, width))
        cy, cx = rng.uniform(radius, height - radius), rng.uniform(radius, width - radius)
        if any(np.hypot(cy - y, cx - x) < radius + other for y, x, other in taken):
            continue
        kind = int(rng.integers(len(LABELS)))
        inside = _inside(kind, (height, width), (cy, cx), radius, turn=rng.uniform(0, 2 * np.pi))
        fill = _texture(rng, height, width, contrast=rng.uniform(2, 20))
        ground = picture[inside].mean(axis=0)
        if np.abs(fill[inside].mean(axis=0) - ground).max() < 60:  # a shape that cannot be seen is no example
            fill = (fill + np.where(ground < 128, 90, -90)).clip(0, 255)
        picture[inside] = fill[inside]
        mask[inside] = 1 + kind
        taken.append((cy, cx, radius))
        classes.append(kind)
    boxes = []
    for number, (y, x, radius) in enumerate(taken):
        rows, columns = np.nonzero(
            (mask == 1 + classes[number])
            & (np.hypot(*(np.mgrid[:height, :width] + 0.5 - np.array([y, x])[:, None, None])) <= radius * 1.001)
        )
        boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    noisy = picture + rng.normal(0, 4, picture.shape)
    return Scene(noisy.clip(0, 255).astype(np.uint8), np.array(boxes, np.float64), tuple(classes), mask)


def _inside(
    kind: int, size: tuple[int, int], centre: tuple[float, float], radius: float, *, turn: float
) -> NDArray[np.bool_]:
    """The pixels of a shape within a circle of this radius; ``size`` and ``centre``: y and x."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    y, x = y - centre[0], x - centre[1]
    if kind == 0:
        return np.asarray(np.hypot(y, x) <= radius, np.bool_)
    corners = 4 if kind == 1 else 3
    inner = radius * np.cos(np.pi / corners)
    angles = turn + 2 * np.pi * np.arange(corners) / corners
    sides = np.stack([y * np.sin(angle) + x * np.cos(angle) <= inner for angle in angles])
    return np.asarray(sides.all(axis=0), np.bool_)


def _texture(rng: np.random.Generator, height: int, width: int, *, contrast: float) -> NDArray[np.float64]:
    """A colour with a smooth random pattern and stripes, float [height, width, 3]."""
    colour = rng.uniform(20, 235, 3)
    coarse = rng.normal(0, 1, (int(rng.integers(3, 9)), int(rng.integers(3, 9)), 3))
    rows = np.linspace(0, coarse.shape[0] - 1, height)
    columns = np.linspace(0, coarse.shape[1] - 1, width)
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = np.minimum(top + 1, coarse.shape[0] - 1), np.minimum(left + 1, coarse.shape[1] - 1)
    fy, fx = (rows - top)[:, None, None], (columns - left)[None, :, None]
    smooth = (
        coarse[top][:, left] * (1 - fy) * (1 - fx)
        + coarse[top][:, right] * (1 - fy) * fx
        + coarse[down][:, left] * fy * (1 - fx)
        + coarse[down][:, right] * fy * fx
    )
    y, x = np.mgrid[:height, :width]
    direction, wave = rng.uniform(0, np.pi), rng.uniform(0.1, 1.2)
    stripes = np.sin((y * np.sin(direction) + x * np.cos(direction)) * wave)[..., None]
    made: NDArray[np.float64] = colour + contrast * (smooth + rng.uniform(0, 0.7) * stripes)
    return made.clip(0, 255)


def main() -> int:
    """Write the pictures; returns the exit code."""
    from PIL import Image

    parser = argparse.ArgumentParser(prog="models.shapes.pictures", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("build/shapes"), metavar="DIR")
    output: Path = parser.parse_args().output
    for part, count, seed in (("public", _PUBLIC, 1), ("test", _TEST, 2)):
        rng = np.random.default_rng(seed)
        (output / part).mkdir(parents=True, exist_ok=True)
        truth = {}
        for number in range(count):
            made = scene(rng, *_SIZES[number % len(_SIZES)])
            name = f"{number:03d}.png"
            Image.fromarray(made.picture).save(output / part / name)
            truth[name] = [
                {"label": LABELS[kind], "box": box.tolist()}
                for kind, box in zip(made.classes, made.boxes, strict=True)
            ]
        (output / f"{part}.json").write_text(json.dumps(truth, indent=1) + "\n")
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

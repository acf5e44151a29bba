"""Draws a preview: a block of rows for each cut, with the released features above the answers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from split_model.arrays import Array
from split_model.prepare.drawing import drawn, plain
from split_model.prepare.preview import Cell, Preview

_MOST_MAPS = 16
_INCHES = 2.4


def draw(found: Preview, path: Path, *, title: str) -> None:
    """Write the preview as ``.png`` or ``.svg``; errors as in `split_model.prepare.drawing`."""
    rows = [
        [cell for cell in found.cells if cell.cut == cut] for cut in dict.fromkeys(cell.cut for cell in found.cells)
    ]
    across = max(map(len, rows))
    # For each cut a row of features; a row of drawn answers and a row of reconstructions if there are any.
    has_drawn = [any(cell.drawn is not None for cell in of_cut) for of_cut in rows]
    has_seen = [any(cell.seen is not None for cell in of_cut) for of_cut in rows]
    count = 1 + len(rows) + sum(has_drawn) + sum(has_seen)
    with drawn(path, (_INCHES * across, (_INCHES + 0.5) * count)) as figure:
        grid = figure.subplots(count, across, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        figure.suptitle(plain(title))
        grid[0][0].imshow(found.picture)
        grid[0][0].set_title(f"what the model gets\n{plain(found.answer)}", fontsize=8)
        top = 1
        for of_cut, with_drawn, with_seen in zip(rows, has_drawn, has_seen, strict=True):
            for column, cell in enumerate(of_cut):
                _leaves(grid[top][column], cell, has_drawn=any(has_drawn))
                if cell.drawn is not None:
                    grid[top + 1][column].imshow(cell.drawn)
                if cell.seen is not None:
                    _seen(grid[top + 1 + with_drawn][column], *cell.seen)
            top += 1 + with_drawn + with_seen


def _leaves(axes: Any, cell: Cell, *, has_drawn: bool) -> None:
    """Draw the server's features and the resulting answer."""
    axes.imshow(_tiles(cell.features), cmap="gray", interpolation="nearest", aspect="equal")
    many = "agreement" if has_drawn else "as unsplit in"
    sure = "" if not cell.release else f"\n{many} {cell.same:.0%}{'' if has_drawn else ' of draws'}"
    axes.set_title(f"cut {cell.cut}, {cell.release or 'no noise'}\n{plain(cell.answer)}{sure}", fontsize=8)


def _seen(axes: Any, picture: Array, verdict: str) -> None:
    """The stored attacker's reconstruction."""
    axes.imshow(picture)
    axes.set_title(f"a server can draw this:\n{verdict}", fontsize=8, weight="bold")


def _tiles(features: Array) -> Array:
    """The first channels of a map side by side, each in its own range; a vector as a block."""
    maps = features[0] if features.ndim > 1 and features.shape[0] == 1 else features
    if maps.ndim != 3 or maps.shape[0] * maps.shape[1] == 1:
        flat = maps.reshape(-1)
        side = math.ceil(math.sqrt(flat.size))
        return np.pad(flat, (0, side * side - flat.size), mode="edge").reshape(side, side)
    count = min(_MOST_MAPS, maps.shape[2])
    side = math.ceil(math.sqrt(count))
    height, width = maps.shape[:2]
    whole = np.ones((side * (height + 1), side * (width + 1)), np.float32)
    for at in range(count):
        one = maps[..., at]
        top, left = at // side * (height + 1), at % side * (width + 1)
        whole[top : top + height, left : left + width] = (one - one.min()) / max(float(np.ptp(one)), 1e-12)
    return whole

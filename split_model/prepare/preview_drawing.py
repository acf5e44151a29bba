"""Draws a preview: a block of rows for each cut, with the released features above the answers."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from split_model.arrays import Array
from split_model.prepare.drawing import drawn, plain
from split_model.prepare.preview import Cell, Preview

_MOST_MAPS = 16
_INCHES = 2.4
_HEADING_INCHES = 0.4
_TITLE_INCHES = 0.6
_LINE = 78

_EXPLAINED = (
    "Each block below is a place in the model where the board can stop and send. The upper row is what leaves the "
    "board, drawn as grey tiles: as it is, and with noise. The smaller ε, the more noise, and the more often the "
    "answer is another one."
)
_SEEN = (
    "The lower row is what somebody who runs the server can draw from it, with what the strongest attack of the "
    "audit sees, in words."
)
_UNSEEN = (
    "What somebody who runs the server can draw from it is not known yet: after 'split-model audit --store' this "
    "page shows it. Tiles that look like nothing prove nothing."
)


def draw(found: Preview, path: Path, *, title: str) -> None:
    """Write the preview as ``.png`` or ``.svg``; errors as in `split_model.prepare.drawing`."""
    blocks = [
        [cell for cell in found.cells if cell.cut == cut] for cut in dict.fromkeys(cell.cut for cell in found.cells)
    ]
    across = max(3, *map(len, blocks))
    heights = [_INCHES + _TITLE_INCHES, *(_height(of_cut) for of_cut in blocks)]
    with drawn(path, (_INCHES * across, sum(heights) + _HEADING_INCHES)) as figure:
        figure.suptitle(plain(title))
        parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        _explain(parts[0], found, across)
        for part, of_cut in zip(parts[1:], blocks, strict=True):
            _block(part, of_cut, across)


def _explain(part: Any, found: Preview, across: int) -> None:
    """The model's input with the unsplit answer, and what the page shows."""
    shown, words = part.subplots(1, 2, width_ratios=(1, across - 1))
    shown.axis("off")
    words.axis("off")
    shown.imshow(found.picture)
    shown.set_title(f"what the model gets\nits answer: {plain(found.answer)}", fontsize=8)
    has_seen = any(cell.seen is not None for cell in found.cells)
    width = round(_LINE * (across - 1) / 3)
    text = "\n\n".join(textwrap.fill(one, width) for one in (_EXPLAINED, _SEEN if has_seen else _UNSEEN))
    words.text(0.02, 0.5, text, fontsize=10, va="center", transform=words.transAxes)


def _rows(of_cut: list[Cell]) -> tuple[bool, bool]:
    """Whether a cut has a row of answers drawn into the picture, and one of reconstructions."""
    return any(cell.drawn is not None for cell in of_cut), any(cell.seen is not None for cell in of_cut)


def _height(of_cut: list[Cell]) -> float:
    return _HEADING_INCHES + (1 + sum(_rows(of_cut))) * (_INCHES + _TITLE_INCHES)


def _block(part: Any, of_cut: list[Cell], across: int) -> None:
    """One cut: a row of features, one of answers in the picture, one of reconstructions."""
    with_drawn, with_seen = _rows(of_cut)
    cut = of_cut[0].cut
    where = f"cut {cut}: the board computes this far, then sends" if cut else "cut 0: the board sends the picture"
    part.suptitle(where, x=0.01, ha="left", weight="bold", fontsize=10)
    grid = part.subplots(1 + with_drawn + with_seen, across, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for column, cell in enumerate(of_cut):
        _leaves(grid[0][column], cell, has_drawn=with_drawn)
        if cell.drawn is not None:
            grid[1][column].imshow(cell.drawn)
        if cell.seen is not None:
            _seen(grid[-1][column], *cell.seen)


def _leaves(axes: Any, cell: Cell, *, has_drawn: bool) -> None:
    """Draw the server's features and the resulting answer."""
    axes.imshow(_tiles(cell.features), cmap="gray", interpolation="nearest", aspect="equal")
    many = "agreement with the whole model" if has_drawn else "the whole model's answer in"
    sure = "" if not cell.release else f"\n{many} {cell.same:.0%}{'' if has_drawn else ' of tries'}"
    axes.set_title(f"{_words(cell.release)}\nanswer: {plain(cell.answer)}{sure}", fontsize=8)


def _words(release: str) -> str:
    """A release for people who know none: "epsilon 4 a value" is noise, anything else a codebook."""
    if not release:
        return "as it is, unprotected"
    how = "with noise, " if release.startswith("epsilon") else "as one of "
    return how + release.replace("epsilon ", "ε = ")


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

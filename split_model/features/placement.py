"""The place of a picture in a model's input: converts coordinates in both directions.

A picture is scaled, and the model sees a part of it (``crop``), all of it with a border (``letterbox``), or all of
it (``stretch``). Coordinates are continuous: pixel ``i`` reaches from ``i`` to ``i + 1``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from split_model.bundle.manifest import ImagePreprocess

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Placement:
    """The place of one picture in a model's input. All sizes are height and width in pixels.

    ``picture``: size of the upright picture. ``scaled``: its size after scaling. ``origin``: top and left of the
    scaled picture in the input; negative if a part is cut off, positive beside a border. ``input``: size of the
    input.
    """

    picture: tuple[int, int]
    scaled: tuple[int, int]
    origin: tuple[int, int]
    input: tuple[int, int]

    @classmethod
    def of(cls, preprocess: ImagePreprocess, height: int, width: int) -> Placement:
        """The placement of a picture of this size."""
        tall, wide = preprocess.crop
        scaled = _scaled(preprocess, height, width)
        if preprocess.fit == "crop":
            origin = (-((scaled[0] - tall) // 2), -((scaled[1] - wide) // 2))
        else:
            origin = ((tall - scaled[0]) // 2, (wide - scaled[1]) // 2)
        return cls((height, width), scaled, origin, (tall, wide))

    @classmethod
    def whole(cls, height: int, width: int) -> Placement:
        """The placement for an input that is not a prepared picture: its own pixels are the coordinates."""
        size = (height, width)
        return cls(size, size, (0, 0), size)

    def of_original(self, height: int, width: int) -> Placement:
        """The same for the original picture, if this one was decoded at reduced size."""
        return replace(self, picture=(height, width))

    def to_picture(self, points: Floats) -> Floats:
        """Convert pixels of the input to pixels of the picture; the last axis of ``points`` is x and y."""
        factor = np.array([self.picture[1] / self.scaled[1], self.picture[0] / self.scaled[0]])
        found: Floats = (points - np.array(self.origin[::-1], np.float64)) * factor
        return found

    def to_input(self, points: Floats) -> Floats:
        """Convert pixels of the picture to pixels of the input; the last axis of ``points`` is x and y."""
        factor = np.array([self.scaled[1] / self.picture[1], self.scaled[0] / self.picture[0]])
        found: Floats = points * factor + np.array(self.origin[::-1], np.float64)
        return found


def _scaled(preprocess: ImagePreprocess, height: int, width: int) -> tuple[int, int]:
    tall, wide = preprocess.crop
    if preprocess.fit == "stretch":
        return tall, wide
    if preprocess.fit == "letterbox":
        factor = min(wide / width, tall / height)
        return min(tall, max(1, round(height * factor))), min(wide, max(1, round(width * factor)))
    short = min(height, width)
    return round(height * preprocess.resize / short), round(width * preprocess.resize / short)

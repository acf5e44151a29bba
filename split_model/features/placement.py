"""Where a picture lies in a model's input: the geometry of pre-processing, there and back.

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
    """One picture in a model's input. All sizes are height and width in pixels.

    ``picture``: of the picture, upright. ``scaled``: its size after scaling. ``origin``: top and left of the scaled
    picture in the input; negative where a part is cut off, positive beside a border. ``input``: of the input.
    """

    picture: tuple[int, int]
    scaled: tuple[int, int]
    origin: tuple[int, int]
    input: tuple[int, int]

    @classmethod
    def of(cls, preprocess: ImagePreprocess, height: int, width: int) -> Placement:
        """Where a picture of this size comes to lie."""
        tall, wide = preprocess.crop
        scaled = _scaled(preprocess, height, width)
        if preprocess.fit == "crop":
            origin = (-((scaled[0] - tall) // 2), -((scaled[1] - wide) // 2))
        else:
            origin = ((tall - scaled[0]) // 2, (wide - scaled[1]) // 2)
        return cls((height, width), scaled, origin, (tall, wide))

    @classmethod
    def whole(cls, height: int, width: int) -> Placement:
        """An input that is no prepared picture: its own pixels are the coordinates."""
        size = (height, width)
        return cls(size, size, (0, 0), size)

    def of_original(self, height: int, width: int) -> Placement:
        """The same for the picture that this one was decoded from at a part of its size."""
        return replace(self, picture=(height, width))

    def to_picture(self, points: Floats) -> Floats:
        """From pixels of the input to pixels of the picture; ``points`` ends in an axis of x and y."""
        factor = np.array([self.picture[1] / self.scaled[1], self.picture[0] / self.scaled[0]])
        found: Floats = (points - np.array(self.origin[::-1], np.float64)) * factor
        return found

    def to_input(self, points: Floats) -> Floats:
        """From pixels of the picture to pixels of the input; ``points`` ends in an axis of x and y."""
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

"""Replies of the device program to a client: answers, descriptions and refusals."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model.answers.png import read_png
from split_model.errors import SplitModelError


class RefusedError(SplitModelError):
    """The device program refused submission ``id``; ``code`` as in docs/local-socket.md."""

    def __init__(self, id_: int | None, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.id = id_


class BusyError(RefusedError):
    """Too many submissions or connections are there already; try again later."""


@dataclass(frozen=True)
class TensorHeader:
    """Element type and shape of an input or output."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Description:
    """The model's inputs and outputs. ``pictures``: it also accepts one uint8 [height, width, channels].

    ``queue_frames``: frames that may wait in all; ``client_frames``: those of one client; ``max_tensor_bytes``:
    limit of each tensor.
    """

    model: str
    inputs: tuple[TensorHeader, ...]
    outputs: tuple[TensorHeader, ...]
    pictures: bool
    queue_frames: int
    client_frames: int
    max_tensor_bytes: int


@dataclass(frozen=True)
class Answer:
    """The answer to one submission.

    ``outputs``: the model's raw outputs, read-only, with the dtypes and shapes that `Client.describe` tells.
    ``record``: the frame's record as the sinks have it. ``id``: the id that `Client.send` returned.
    """

    id: int
    outputs: tuple[NDArray[Any], ...]
    record: dict[str, Any]

    @property
    def outcome(self) -> str:
        """``offloaded``, ``local`` or ``fallback``: who answered."""
        return str(self.record["outcome"])

    @property
    def top(self) -> list[dict[str, Any]]:
        """The best classes, each with ``class``, ``label`` and ``score``; empty where the model has no classes."""
        return list(self.record.get("top", ()))

    @property
    def detections(self) -> list[dict[str, Any]]:
        """Boxes, best first, each with ``class``, ``label``, ``score`` and ``box``; empty where the model has none.

        A ``box`` is x0, y0, x1, y1 in pixels of the picture that was sent.
        """
        return list(self.record.get("detections", ()))

    @property
    def landmarks(self) -> list[dict[str, Any]]:
        """Points: ``x`` and ``y`` in pixels of the picture; ``name`` and ``score`` if the model has them."""
        return list(self.record.get("landmarks", ()))

    @property
    def map(self) -> NDArray[np.uint16] | None:
        """The class at each place [height, width]; None if the model has no map, or it is too large for a record.

        ``record["map"]`` has the ``box`` of the picture that it covers, and each class's ``share`` of it.
        """
        told = self.record.get("map", {})
        return read_png(base64.b64decode(told["png"])) if "png" in told else None

    @property
    def vector(self) -> NDArray[np.float64] | None:
        """The values of a vector; None if the model has none, or it is too long for a record."""
        values = self.record.get("vector", {}).get("values")
        return None if values is None else np.array(values, np.float64)

"""Replies of the device program to a client: what the model takes, and refusals."""

from __future__ import annotations

from dataclasses import dataclass

from split_model.errors import SplitModelError


class RefusedError(SplitModelError):
    """The device program does not answer this submission. ``code`` as in docs/local-socket.md; ``id`` of which."""

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
    """The model's inputs and outputs. ``pictures``: it takes one uint8 [height, width, channels] as well.

    ``queue_frames`` may wait in all, ``client_frames`` of one client; no tensor may exceed ``max_tensor_bytes``.
    """

    model: str
    inputs: tuple[TensorHeader, ...]
    outputs: tuple[TensorHeader, ...]
    pictures: bool
    queue_frames: int
    client_frames: int
    max_tensor_bytes: int

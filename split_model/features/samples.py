"""What a data set is: samples of one model's inputs, read when iterated over."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from split_model.arrays import Array
from split_model.errors import BadInputError
from split_model.features.placement import Placement


def spelled(text: str) -> str:
    r"""A file's name, or a text with one in it, as UTF-8 can have it: its other bytes spelled ``\xff``.

    Linux takes any bytes for a name, and Python keeps those that are no UTF-8 as lone surrogates, which cannot be
    written into a record.
    """
    return os.fsencode(text).decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Sample:
    """One input of the model. ``tensors`` fit the model's inputs; ``path`` is the picture's file, if it has one.

    ``placement``: where the picture lies in the input, if it is one.
    """

    name: str
    tensors: tuple[Array, ...]
    label: int | None
    path: Path | None = None
    placement: Placement | None = None


class BadSampleError(BadInputError):
    """One damaged sample among others; ``name`` is the sample's."""

    def __init__(self, problem: str, *, name: str = "", remedy: str = "") -> None:
        super().__init__(problem, remedy=remedy)
        self.name = name


class Data(ABC):
    """A data set whose names, labels and sizes are known and whose samples are read when iterated over.

    ``passed_over``: names of files that lie among its own and are no samples.
    """

    passed_over: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def __iter__(self) -> Iterator[Sample]:
        """Read the samples, in the order of their names; a damaged one raises `BadInputError`."""

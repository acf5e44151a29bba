"""The interface of data sets: samples of one model's inputs, read during iteration."""

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
    r"""Make a file name printable as UTF-8: bytes that are not UTF-8 become escapes as ``\xff``.

    Linux allows any bytes in a name. Python keeps those that are not UTF-8 as lone surrogates, which cannot be
    written into a record.
    """
    return os.fsencode(text).decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Sample:
    """One sample. ``tensors`` fit the model's inputs; ``path`` is the picture's file, if it has one.

    ``placement``: the picture's place in the input, if it is one.
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
    """A data set with known names, labels and sizes; samples are read during iteration.

    ``passed_over``: names of files in its folder that are not samples.
    """

    passed_over: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def __iter__(self) -> Iterator[Sample]:
        """Read the samples in order of their names; a damaged one raises `BadInputError`."""

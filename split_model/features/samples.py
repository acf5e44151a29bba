"""What a data set is: samples of one model's inputs, read when iterated over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from split_model.errors import BadInputError

Array = NDArray[Any]


@dataclass(frozen=True)
class Sample:
    """One input of the model. ``tensors`` fit the model's inputs; ``path`` is the picture's file, if it has one."""

    name: str
    tensors: tuple[Array, ...]
    label: int | None
    path: Path | None = None


class BadSampleError(BadInputError):
    """One damaged sample among others; ``name`` is the sample's."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(why)
        self.name = name


class Data(ABC):
    """A data set whose names, labels and sizes are known and whose samples are read when iterated over."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def __iter__(self) -> Iterator[Sample]:
        """Read the samples, in the order of their names; a damaged one raises `BadInputError`."""

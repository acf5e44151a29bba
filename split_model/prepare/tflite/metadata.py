"""Reads the normalisation of pictures from a ``.tflite`` file's metadata.

The metadata is a separate flatbuffer in a buffer named TFLITE_METADATA. Its schema is not part of ai-edge-litert,
so the few needed fields are read by their numbers. Metadata that is damaged or of another kind counts as none.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

from split_model.prepare.tflite.reading import ModelFile

_NAME = b"TFLITE_METADATA"
_IDENTIFIER = b"M001"
_MAX_BYTES = 1 << 20
_MAX_UNITS = 16
_MAX_CHANNELS = 4
# Field numbers in the tables of metadata_schema.fbs.
_SUBGRAPHS, _INPUTS, _UNITS = 3, 2, 4
_OPTIONS_TYPE, _OPTIONS, _NORMALISATION = 0, 1, 1
_MEAN, _STD = 0, 1
_ERRORS = (struct.error, IndexError, ValueError, TypeError, OverflowError)


@dataclass(frozen=True, slots=True)
class Normalisation:
    """``(x - mean) / std`` of pixels, one value or one for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def normalisation_of(model: ModelFile) -> Normalisation | None:
    """The normalisation of a model's first input; None if its metadata have none."""
    buffer = next((buffer for name, buffer in model.metadata if name == _NAME), None)
    if buffer is None:
        return None
    raw = bytes(model.buffers[buffer][:_MAX_BYTES])
    if raw[4:8] != _IDENTIFIER:
        return None
    try:
        found = _read(raw)
    except _ERRORS:
        return None
    if found is None or not all(map(math.isfinite, (*found.mean, *found.std))) or 0.0 in found.std:
        return None
    return found


def _read(raw: bytes) -> Normalisation | None:
    root = _Table(raw, _offset(raw, 0))
    graph = root.tables(_SUBGRAPHS)[0]
    for unit in graph.tables(_INPUTS)[0].tables(_UNITS):
        if unit.byte(_OPTIONS_TYPE) == _NORMALISATION:
            options = unit.table(_OPTIONS)
            return Normalisation(options.floats(_MEAN), options.floats(_STD))
    return None


def _offset(raw: bytes, at: int) -> int:
    return at + int(struct.unpack_from("<I", raw, at)[0])


@dataclass(frozen=True, slots=True)
class _Table:
    """One flatbuffer table; reads outside of the bytes raise `struct.error`."""

    raw: bytes
    at: int

    def _field(self, number: int) -> int:
        """The position of a field; raises `IndexError` if the table has none."""
        vtable = self.at - int(struct.unpack_from("<i", self.raw, self.at)[0])
        size = self._unpack("<H", vtable)
        if vtable < 0 or 4 + 2 * number + 2 > size:
            raise IndexError(number)
        place = self._unpack("<H", vtable + 4 + 2 * number)
        if not place:
            raise IndexError(number)
        return self.at + int(place)

    def _unpack(self, kind: str, at: int) -> Any:
        if at < 0:
            raise IndexError(at)
        return struct.unpack_from(kind, self.raw, at)[0]

    def byte(self, number: int) -> int:
        """An unsigned byte."""
        return int(self._unpack("<B", self._field(number)))

    def table(self, number: int) -> _Table:
        """A table inside."""
        return _Table(self.raw, _offset(self.raw, self._field(number)))

    def tables(self, number: int) -> list[_Table]:
        """The first tables of a vector of tables."""
        vector = _offset(self.raw, self._field(number))
        count = min(int(self._unpack("<I", vector)), _MAX_UNITS)
        return [_Table(self.raw, _offset(self.raw, vector + 4 + 4 * at)) for at in range(count)]

    def floats(self, number: int) -> tuple[float, ...]:
        """A vector of floats."""
        vector = _offset(self.raw, self._field(number))
        count = int(self._unpack("<I", vector))
        if not 1 <= count <= _MAX_CHANNELS:
            raise ValueError(count)
        return tuple(float(value) for value in struct.unpack_from(f"<{count}f", self.raw, vector + 4))

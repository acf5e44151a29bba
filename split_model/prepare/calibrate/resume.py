"""Stores the calibration of finished cuts beside the output, so that an interrupted run can resume.

Calibration takes minutes; all other steps of ``prepare`` take seconds. Each cut's numbers are stored in a file
whose name is a hash of all their inputs: head, tail, samples, options and versions. So a run with other inputs
never reads wrong numbers.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from split_model.arrays import Array
from split_model.bundle import ChannelCalibration, Cut
from split_model.errors import OutputError
from split_model.interpreter import available_backends
from split_model.prepare.calibrate.calibration import CalibrationOptions
from split_model.service.atomic_file import write_atomically

Found = tuple[ChannelCalibration, ...]


class KeptCalibration:
    """The folder ``.NAME.calibration`` beside the bundle ``NAME``; `discard` it when the bundle is complete."""

    def __init__(self, target: Path, samples: Sequence[tuple[Array, ...]], options: CalibrationOptions) -> None:
        self._folder = target.parent / f".{target.name}.calibration"
        digest = hashlib.sha256(repr((options, _versions())).encode())
        for sample in samples:
            for tensor in sample:
                digest.update(repr((tensor.dtype.str, tensor.shape)).encode())
                digest.update(tensor.tobytes())
        self._inputs = digest.hexdigest()

    def load(self, cut: Cut) -> Found | None:
        """Load this cut's results of an interrupted run with the same inputs, or None."""
        try:
            return msgspec.json.decode(self._path(cut).read_bytes(), type=Found)
        except (OSError, msgspec.DecodeError):
            return None  # missing, or damaged by a power failure: it is calibrated again

    def keep(self, cut: Cut, found: Found) -> None:
        """Write the results atomically. Raises `OutputError`."""
        path = self._path(cut)
        try:
            self._folder.mkdir(exist_ok=True)
            write_atomically(path, msgspec.json.encode(found))
        except OSError as error:
            raise OutputError(
                f"{path}: {error.strerror or error}", remedy="make room or choose another folder"
            ) from None

    def discard(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, cut: Cut) -> Path:
        head = "" if cut.head is None else cut.head.sha256
        tensors = msgspec.json.encode(cut.tensors)
        key = hashlib.sha256(repr((self._inputs, cut.index, head, cut.tail.sha256, tensors)).encode())
        return self._folder / f"cut-{cut.index:03d}-{key.hexdigest()[:24]}.json"


def _versions() -> tuple[str, ...]:
    names = ("numpy", *available_backends())
    return tuple(f"{name} {importlib.metadata.version(name)}" for name in names)

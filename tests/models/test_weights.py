"""The checkpoint reader takes tensors and runs nothing."""

import collections
import io
import os
import pickle
import struct
import sys
import types

import numpy as np
import pytest

from models.efficientnet_lite0 import weights
from split_model.errors import BadModelError


class _Storage:
    def __init__(self, key, values):
        self.key, self.values = key, values


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, _Storage):
            return ("storage", sys.modules["torch"].FloatStorage, obj.key, "cpu", len(obj.values), None)
        return None


class _Tensor:
    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


@pytest.fixture
def torch_names(monkeypatch):
    """Just enough of PyTorch's names for pickle to write references to them."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def rebuild(*arguments):
        return arguments

    rebuild.__module__, rebuild.__qualname__, rebuild.__name__ = "torch._utils", *["_rebuild_tensor_v2"] * 2
    utils._rebuild_tensor_v2 = rebuild
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def checkpoint(state, storages, magic=0x1950A86A20F9469CFC6C):
    file = io.BytesIO()
    for part in (magic, 1001, {"little_endian": True}):
        pickle.dump(part, file, protocol=2)
    _Pickler(file, protocol=2).dump(state)
    pickle.dump([storage.key for storage in storages], file, protocol=2)
    for storage in storages:
        file.write(struct.pack("<q", len(storage.values)) + np.asarray(storage.values, "<f4").tobytes())
    return file.getvalue()


@pytest.mark.usefixtures("torch_names")
def test_tensors_come_out_with_their_strides_and_offsets():
    storage = _Storage("7", np.arange(10.0))
    state = collections.OrderedDict(
        a=_Tensor(storage, 0, (2, 3), (3, 1), False, None), b=_Tensor(storage, 4, (3, 2), (1, 3), False, None)
    )
    read = weights.read_checkpoint(checkpoint(state, [storage]))
    np.testing.assert_array_equal(read["a"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(read["b"], [[4, 7], [5, 8], [6, 9]])


@pytest.mark.usefixtures("torch_names")
@pytest.mark.parametrize("view", [(8, (3,), (1,)), (0, (11,), (1,)), (0, (2,), (-1,)), (-1, (2,), (1,))])
def test_a_tensor_outside_its_storage_is_refused(view):
    storage = _Storage("7", np.arange(10.0))
    with pytest.raises(BadModelError, match="outside its storage"):
        weights.read_checkpoint(checkpoint({"a": _Tensor(storage, *view, False, None)}, [storage]))


class _Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadModelError, match="mkdir"):
        weights.read_checkpoint(checkpoint({"a": _Harm()}, []))
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused():
    with pytest.raises(BadModelError, match="format of 2020"):
        weights.read_checkpoint(checkpoint({}, [], magic=5))
    for junk in (b"", b"PK\x03\x04junk", checkpoint({}, [])[:40]):
        with pytest.raises(BadModelError):
            weights.read_checkpoint(junk)

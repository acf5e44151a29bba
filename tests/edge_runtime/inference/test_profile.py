"""What a board is measured with."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from edge_runtime.inference.profile import plausible, worst_inputs
from split_model.bundle.manifest import TensorSpec


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool"])
def test_inputs_have_the_models_types_and_are_not_all_the_same(dtype: str) -> None:
    (found,) = plausible([TensorSpec(name="x", shape=(1, 8, 8, 3), dtype=dtype)])
    assert found.dtype == np.dtype(dtype)
    assert found.shape == (1, 8, 8, 3)
    assert len(np.unique(found)) > 1
    if found.dtype.itemsize > 2 and found.dtype.kind == "i":
        assert set(np.unique(found)) == {0, 1}  # indices: whatever they point into has two entries


def test_the_device_program_does_not_load_the_random_numbers_of_numpy() -> None:
    """They take 4 MB of a board's memory."""
    code = (
        "import sys, edge_runtime.daemon.daemon; from edge_runtime.inference.profile import plausible; "
        "from split_model.bundle.manifest import TensorSpec; "
        "plausible([TensorSpec(name='x', shape=(4,), dtype='float32')]); "
        "sys.exit('numpy.random' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool"])
def test_slots_are_measured_on_inputs_of_the_models_types(dtype: str) -> None:
    found = worst_inputs([TensorSpec(name="x", shape=(1, 8, 8, 3), dtype=dtype)])
    assert all((one.dtype, one.shape) == (np.dtype(dtype), (1, 8, 8, 3)) for (one,) in found)
    assert not found[-1][0].any()
    if dtype.startswith("float"):
        least = np.finfo(dtype).smallest_normal
        (denormal,) = found[0]
        assert ((denormal > 0) & (denormal < least)).mean() > 0.5
    if np.dtype(dtype).itemsize > 2 and dtype.startswith("int"):
        assert {value for (one,) in found for value in np.unique(one)} <= {0, 1}

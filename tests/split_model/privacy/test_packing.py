"""Bits in, bits out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from split_model.errors import ProtocolError
from split_model.privacy.packing import pack, packed_bytes, padded_values, unpack


@given(bits=st.integers(4, 8), values=st.integers(1, 200), seed=st.integers(0, 2**32 - 1))
def test_roundtrip(bits, values, seed):
    numbers = np.random.default_rng(seed).integers(0, 1 << bits, values).astype(np.uint8)
    padded = np.zeros(padded_values(values, bits), np.uint8)
    padded[:values] = numbers
    packed = pack(padded, bits)
    assert packed.nbytes == packed_bytes(values, bits)
    assert packed.nbytes <= -(-values * bits // 8) + 8  # no wider than the bits, but for the last group
    np.testing.assert_array_equal(unpack(packed, values, bits), numbers)


@pytest.mark.parametrize("bits", [4, 5, 6, 7])
def test_every_bit_of_every_value_survives(bits):
    """One bit set at a time: none lands on another's place."""
    size = padded_values(8, bits)
    seen = set()
    for value in range(8):
        for bit in range(bits):
            numbers = np.zeros(size, np.uint8)
            numbers[value] = 1 << bit
            seen.add(pack(numbers, bits).tobytes())
            np.testing.assert_array_equal(unpack(pack(numbers, bits), 8, bits), numbers[:8])
    assert len(seen) == 8 * bits


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("off", [-1, 1])
def test_another_length_is_refused(bits, off):
    with pytest.raises(ProtocolError, match=r"features of \d+ bytes where the plan has \d+"):
        unpack(np.zeros(packed_bytes(10, bits) + off, np.uint8), 10, bits)

"""The server cannot tell frames apart that take the board different times, but for when they leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.privacy import pow_model
from benchmarks.privacy.blocks import CHOICES, differs
from benchmarks.privacy.server_view import compare, kinds, opened

PAIRS, BLOCK = 12, 10
LEVEL = 0.001  # of twelve pairs, the least p is 0.0005: each exchange the same way


def test_denormal_frames_are_sent_as_often_as_others(tmp_path: Path) -> None:
    """POW takes five times as long on them."""
    bundle = pow_model.prepared(tmp_path / "model", pows=160)
    makers = kinds(bundle)
    with opened(bundle, tmp_path / "device") as (device, server):
        pair = makers["denormal"], makers["noise"]
        choices, _, _ = compare(device, server, pair, frames=PAIRS * BLOCK, block=BLOCK)
    assert choices.p > LEVEL, choices


@pytest.mark.parametrize(("shift", "found"), [(0.0, False), (3.0, True)])
def test_the_test_finds_a_shift_and_nothing_where_there_is_none(shift: float, found: bool) -> None:
    rng = np.random.default_rng(5)
    one, other = rng.normal(size=(2, 40, len(CHOICES)))
    one[:, 2] += shift
    result = differs(one, other, CHOICES)
    assert (result.p < 0.01) is found
    if found:
        assert result.feature == CHOICES[2]

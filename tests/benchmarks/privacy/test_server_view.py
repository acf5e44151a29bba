"""The server cannot tell frames apart that take the board different times, but for when they leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.privacy import pow_model
from benchmarks.privacy.blocks import CHOICES, differs
from benchmarks.privacy.server_view import found_in, found_in_reports
from benchmarks.privacy.view_play import kinds, opened, play, scene

PAIRS, BLOCK = 12, 4
LEVEL = 0.001


#: Frames stay until the board is believed to be three times slower than it is: a busy machine is not enough.
EDGE = 3.0
#: The load differs by less between the kinds; by three to nine where it is taken from how long a head takes.
MOST = 1.7


def test_denormal_frames_are_sent_as_often_as_others(tmp_path: Path) -> None:
    """POW takes several times as long on them. A load taken from how long heads take sends nearly all of them."""
    bundle = pow_model.prepared(tmp_path / "model", pows=160, head_pows=40)
    makers = kinds(bundle)
    with opened(bundle, tmp_path / "device") as (device, server):
        compared = {name: makers[name] for name in ("denormal", "noise")}
        played = scene("edge", device, compared.values(), edge=EDGE)
        pairs = [
            (seen["denormal"], seen["noise"])
            for seen in play(device, server, compared, played, rounds=range(PAIRS), block=BLOCK)
        ]
    choices, reports = found_in(pairs)[0], found_in_reports(pairs)
    loads = [np.median([both[kind].load for both in pairs]) for kind in (0, 1)]
    assert loads[0] / loads[1] < MOST, loads
    assert choices.p > LEVEL, choices
    assert any(any(one.reports) for one in pairs[0])  # they were told
    assert reports.p > LEVEL, reports


@pytest.mark.parametrize(("shift", "found"), [(0.0, False), (3.0, True)])
def test_the_test_finds_a_shift_and_nothing_where_there_is_none(shift: float, found: bool) -> None:
    rng = np.random.default_rng(5)
    one, other = rng.normal(size=(2, 40, len(CHOICES)))
    one[:, 2] += shift
    result = differs(one, other, CHOICES)
    assert (result.p < 0.01) is found
    if found:
        assert result.feature == CHOICES[2]

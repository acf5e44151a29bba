"""A run without an offloaded frame says why, and what sends frames all the same."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest


@pytest.mark.parametrize("split", ["auto", 2])
def test_the_last_lines_say_why_no_frame_was_offloaded(rig: Any, split: Any) -> None:
    """The tiny model takes less than a round trip, so the planner answers here, unless it is told not to."""
    source = {"path": str(rig.parts.arrays), "repeat": 20, "interval_s": 0.05}
    planner = {"split": split, "accuracy_floor": "off", "answer_within_s": 5.0}
    device = rig.device(rig.server(), tables={"source": source, "planner": planner, "emulation": {}})
    assert device.ended() == os.EX_OK
    said = re.findall(
        r"no frame was offloaded: by prediction one takes .* planner\.split = \d+ sends", device.log()
    )
    assert len(said) == (split == "auto")
    assert (device.counters()["offloaded"] == 0) == (split == "auto")

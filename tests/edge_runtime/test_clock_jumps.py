"""The wall clock jumps by years at every look, on the device and on the server: nothing of ours goes by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_runtime.privacy import ledger
from edge_runtime.privacy.release import plan_for
from split_model.privacy import NoiseSpec

#: Loaded by Python at its start, in place of the clock that a person or the network sets.
_JUMPING = """
import itertools
import time

_true_s, _jumps_s = time.time, itertools.cycle((0.0, 3e7, -3e7, 9e8))
time.time = lambda: _true_s() + next(_jumps_s)
time.time_ns = lambda: int(time.time() * 1e9)
with open(__file__ + ".loaded", "a") as loaded:
    print(file=loaded)
"""
CUT, PAID = 2, 30


@pytest.fixture
def jumping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A line is added to this file by each program that has such a clock."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_JUMPING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    return tmp_path / "site" / "sitecustomize.py.loaded"


def test_frames_deadlines_and_the_window_go_on_while_the_wall_clock_jumps(
    rig: Any, parts: Any, jumping: Path
) -> None:
    price = plan_for(parts.bundle.cut(CUT), NoiseSpec(epsilon=16.0)).whole_input_epsilon
    device = rig.device(
        rig.server(),
        device_state="state",
        privacy_window_s=86400.0,
        privacy_window_budget=price * (PAID + 0.5),
        privacy_block_frames=4,
        planner_dwell_s=0.0,
    )
    device.until(lambda: device.count("offloaded") >= PAID, "every frame that the window pays for")
    assert len(jumping.read_text()) >= 2
    device.wait_more("local", 30)
    assert device.stop() == 0
    counters = device.counters()
    assert counters["releases"] == device.count("offloaded") + device.count("fallback") == PAID
    assert counters["late"] == counters["failed"] == counters["reconnects"] == 0
    state = ledger.read(device.config.parent / "state")
    assert state is not None
    assert state.total.releases == PAID
    assert 0.0 < state.window_age_s < 3600.0

"""SIGTERM to a program in which something blocks for ever: it ends before systemd kills it, its ledger closed."""

from __future__ import annotations

import configparser
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.daemon.shutdown import EXIT_AFTER_S, LEDGER_AFTER_S, LEDGER_BY_S, next_step
from edge_runtime.privacy.ledger import read

ROOT = Path(__file__).resolve().parents[3]
#: In the place of picamera2: a camera whose driver hangs after some pictures.
HANGING_CAMERA = """
import time
import numpy as np

class Picamera2:
    def __init__(self, number):
        self.pictures = 40

    def create_video_configuration(self, **options):
        return options

    def configure(self, options):
        pass

    def start(self):
        pass

    def capture_array(self, stream):
        self.pictures -= 1
        time.sleep(0.1 if self.pictures > 0 else 1e6)
        return np.full((48, 64, 3), self.pictures, np.uint8)

    def close(self):
        time.sleep(1e6)
"""


def stop_timeout_s() -> float:
    """How long systemd waits after SIGTERM before it kills."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(ROOT / "deploy" / "systemd" / "edge-runtime.service")
    return float(unit["Service"]["TimeoutStopSec"])


def stopped(device: Any, state: Path) -> int:
    """Stop a device that has a block of its ledger reserved; its exit code. Nothing reserved may be left."""
    before = read(state)
    assert before is not None
    assert before.reserved != {}
    device.popen.send_signal(signal.SIGTERM)
    code: int = device.popen.wait(stop_timeout_s())
    after = read(state)
    assert after is not None
    assert after.reserved == {}
    assert 0 < after.total.releases < before.total.releases
    return code


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_a_camera_that_hangs_is_no_bar_to_the_end(
    rig: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "picamera2.py").write_text(HANGING_CAMERA)
    monkeypatch.setenv("PYTHONPATH", str(site))
    source = {"kind": "camera", "backend": "picamera2", "name": "porch"}
    device = rig.device(rig.server(), tables={"source": source}, device_state="state", planner_objective=objective)
    device.until(lambda: len(device.records()) >= 30, "pictures")
    device.wait_more("offloaded", 1)
    assert stopped(device, device.config.parent / "state") == os.EX_OK
    assert "does not stop" not in device.log()  # it hangs in a process of its own, which is ended
    counters = device.counters()
    ends = ("offloaded", "local", "fallback", "failed", "dropped")
    assert counters["frames_in"] == sum(value for name, value in counters.items() if name.startswith(ends))


@pytest.mark.slow
def test_a_source_that_hangs_in_the_frame_loops_own_thread(rig: Any, tmp_path: Path) -> None:
    """Files are read there when nobody paces them: a path on a dead network share, here a FIFO."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for picture in rig.parts.pictures.iterdir():
        (pictures / picture.name).write_bytes(picture.read_bytes())
    device = rig.device(
        rig.server(), device_state="state", source_path=str(pictures), source_interval_s=0.0, source_repeat=0
    )
    device.wait_more("offloaded")
    (pictures / "2.png").unlink()
    os.mkfifo(pictures / "2.png")
    device.until(lambda: is_quiet(device), "blocked")
    assert stopped(device, device.config.parent / "state") == os.EX_SOFTWARE
    assert "the program ends without waiting for the part that hangs" in device.log()


@pytest.mark.slow
def test_a_sink_that_hangs(rig: Any, tmp_path: Path) -> None:
    pipe = tmp_path / "answers"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # it is there, and reads nothing
    try:
        device = rig.device(
            rig.server(), device_state="state", sink_path=str(pipe), source_interval_s=0.0, source_repeat=0
        )
        state = device.config.parent / "state"
        device.until(lambda: (ledger_state := read(state)) is not None and ledger_state.reserved, "a block")
        fill(pipe)
        time.sleep(2.0)  # by now it has a record to write
        assert stopped(device, state) == os.EX_SOFTWARE
    finally:
        os.close(reader)


def is_quiet(device: Any) -> bool:
    """Whether no frame was answered for a while."""
    before = len(device.records())
    time.sleep(2.0)
    return len(device.records()) == before


def fill(pipe: Path) -> None:
    writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"\n")
    os.close(writer)


TIMES = st.floats(0, 1000, allow_nan=False)


@given(running_s=TIMES, quiet_s=TIMES, frame_within_s=TIMES)
def test_the_ledger_is_closed_before_the_program_leaves(
    running_s: float, quiet_s: float, frame_within_s: float
) -> None:
    times = {"running_s": running_s, "quiet_s": quiet_s, "frame_within_s": frame_within_s}
    assert next_step(**times, is_ledger_open=True) != "leave"
    later = next_step(**times, is_ledger_open=False)
    assert (later == "leave") == (quiet_s >= max(EXIT_AFTER_S, frame_within_s))
    if quiet_s >= LEDGER_AFTER_S or running_s >= LEDGER_BY_S:
        assert next_step(**times, is_ledger_open=True) == "close the ledger"


def test_all_of_it_comes_before_systemd_kills() -> None:
    assert LEDGER_AFTER_S < EXIT_AFTER_S < LEDGER_BY_S < stop_timeout_s()

"""A disk without room at the very first start: frames are answered here, nothing leaves, and it is said."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system, which needs root")


@pytest.fixture
def full_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of its own, with no room for another file (``inodes``) or for another byte (``blocks``)."""
    place = tmp_path / "disk"
    place.mkdir()
    options = "size=64k,nr_inodes=1" if request.param == "inodes" else "size=64k"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        if request.param == "blocks":
            with contextlib.suppress(OSError), (place / "filling").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1024))
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_runtime", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("full_disk", ["inodes", "blocks"], indirect=True)
def test_frames_are_answered_here_and_status_and_doctor_say_why(rig: Any, full_disk: Path, tmp_path: Path) -> None:
    server = rig.server()
    pictures = tmp_path / "pictures"
    shutil.copytree(rig.parts.pictures, pictures)
    device = rig.device(
        server,
        device_state=str(full_disk / "state"),
        source_kind="watch",
        source_path=str(pictures),
        source_repeat=None,
        source_interval_s=None,
        source_settle_s=0.0,
        source_poll_s=0.05,
        emulation_slowdown=1.0,
    )
    device.wait_more("local", 4)
    status = command("status", "-c", str(device.config), "--json")
    assert "the privacy ledger could not be opened" in json.loads(status.stdout)["ledger_trouble"]
    assert "nothing leaves this device" in command("status", "-c", str(device.config)).stdout
    findings = json.loads(command("doctor", "-c", str(device.config), "--no-server", "--json").stdout)
    told = json.dumps(findings)
    assert "make room: the ledger cannot be made" in told
    assert "nothing leaves this board: the privacy ledger could not be opened" in told
    assert device.stop() == 0
    assert device.count("local") == 4
    assert device.counters()["offloaded"] == 0
    assert "Traceback" not in device.log()
    for what in ("is measured again at the next start", "a restart will answer some files again"):
        assert device.log().count(what) == 1, what


@pytest.mark.parametrize("full_disk", ["blocks"], indirect=True)
def test_a_status_file_on_a_full_disk_is_one_line(rig: Any, full_disk: Path) -> None:
    device = rig.device(
        device_state=str(full_disk / "state"), device_status=str(full_disk / "status.json"), emulation_slowdown=1.0
    )
    device.wait_more("local", 4)
    assert device.stop() == 0
    assert device.log().count("status.json: No space left on device") == 1


@pytest.mark.parametrize("full_disk", ["blocks"], indirect=True)
def test_after_room_was_made_a_reload_opens_the_ledger(rig: Any, full_disk: Path) -> None:
    server = rig.server()
    device = rig.device(server, device_state=str(full_disk / "state"))
    device.wait_more("local", 2)
    (full_disk / "filling").unlink()
    device.popen.send_signal(signal.SIGHUP)
    device.wait_more("offloaded", 2)
    assert device.stop() == 0

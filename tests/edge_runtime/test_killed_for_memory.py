"""The kernel kills the program for want of memory: what was released stays charged, and the next start says so."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.privacy import ledger
from tests.edge_runtime.conftest import Device

_CGROUPS = Path("/sys/fs/cgroup")
_START = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); os.execv(sys.argv[2], sys.argv[2:])"
_LOOKS = 60
_BLOCK = 16


@dataclass(frozen=True)
class Group:
    """A control group of memory: its folder, and the names of its files in this version of them."""

    folder: Path
    limit: str
    usage: str

    def used_bytes(self) -> int:
        return int((self.folder / self.usage).read_text())


_VERSIONS = (
    (_CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    (_CGROUPS, "memory.max", "memory.current"),
)


@pytest.fixture
def group() -> Iterator[Group]:
    for root, limit, usage in _VERSIONS:
        made = Group(root / f"edge-test-{os.getpid()}", limit, usage)
        try:
            made.folder.mkdir()
        except OSError:
            continue
        try:
            if (made.folder / limit).exists():
                yield made
                return
        finally:
            made.folder.rmdir()
    pytest.skip("needs root, and control groups of memory")


def test_what_was_released_before_an_out_of_memory_kill_stays_charged(
    rig: Any, group: Group, tmp_path: Path, parts: Any
) -> None:
    """The pictures take 48 MB each while they are read; the limit comes down between two of them."""
    pictures = tmp_path / "large.npz"
    np.savez_compressed(pictures, pictures=np.zeros((2, 4000, 4000, 3), np.uint8))
    server = rig.server()
    config = rig.configure(
        server,
        source_path=str(pictures),
        device_state="state",
        release_mechanism="noise",
        privacy_block_frames=_BLOCK,
    )
    folder = config.parent
    server.allow("device", (folder / "device.pub").read_bytes().strip())
    run = [sys.executable, "-m", "edge_runtime", "run", "-c", str(config)]
    with (folder / "log").open("wb") as stderr:
        popen = subprocess.Popen([sys.executable, "-c", _START, group.folder / "cgroup.procs", *run], stderr=stderr)
    device = Device(config, popen, folder / "log", b"", folder / "answers.jsonl")
    rig.processes.append(device)
    device.wait_more("offloaded", 3)
    used_bytes = []
    for _ in range(_LOOKS):
        used_bytes.append(group.used_bytes())
        time.sleep(0.02)
    _bring_down(group, (min(used_bytes) + max(used_bytes)) // 2, popen)
    assert popen.wait(60) == -signal.SIGKILL
    answered = device.count("offloaded")
    state = ledger.read(folder / "state")
    assert state is not None
    assert state.total.releases >= answered >= 3
    assert state.total.releases <= answered + 3 * _BLOCK  # what was reserved for frames to come is lost
    changes = {"source_path": str(parts.arrays), "device_state": "state", "release_mechanism": "noise"}
    again = rig.device(server, allowed=False, **changes)  # it is still allowed
    again.wait_more("offloaded", 1)
    assert "count as made" in again.log()


def _bring_down(group: Group, limit_bytes: int, popen: subprocess.Popen[bytes]) -> None:
    """Version 1 takes no limit below what is in use just now."""
    deadline_s = time.monotonic() + 30.0
    while popen.poll() is None and time.monotonic() < deadline_s:
        with contextlib.suppress(OSError):
            (group.folder / group.limit).write_text(str(limit_bytes))
            return
        time.sleep(0.005)

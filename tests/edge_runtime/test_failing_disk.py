"""A card that fails while the program runs: what cannot be read costs its cut, and frames go on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from split_model.bundle import Bundle

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts over a file, which needs root")


@pytest.fixture
def unreadable() -> Iterator[Any]:
    """Makes files unreadable as a failing card does: they are there, and reading them is an I/O error."""
    mounted: list[Path] = []

    def spoil(path: Path) -> None:
        # A regular file whose first byte cannot be read: nothing is mapped at address 0 of a process.
        done = subprocess.run(
            ["mount", "--bind", f"/proc/{os.getpid()}/mem", str(path)], check=False, capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        mounted.append(path)
        with pytest.raises(OSError, match="Input/output error"):
            path.read_bytes()

    yield spoil
    for path in mounted:
        subprocess.run(["umount", "-l", path], check=True)


def test_a_head_that_cannot_be_read_is_backed_off_and_the_program_goes_on(
    rig: Any, unreadable: Any, tmp_path: Path
) -> None:
    bundle = Bundle.open(Path(shutil.copytree(rig.parts.bundle.root, tmp_path / "bundle")))
    first = rig.server(bundle=bundle)
    first.stop()
    device = rig.device(first, device_bundle=str(bundle.root), device_state="state", planner_split=2)
    device.wait_more("local")
    head = bundle.cut(2).head
    for path in (bundle.path(head), device.config.parent / "state" / "models" / head.sha256):
        if path.exists():
            unreadable(path)
    rig.server(bundle=rig.parts.bundle, address=first.address)
    device.until(lambda: "cut 2 is not used for" in device.log(), "the cut backed off")
    device.wait_more("local", 10)
    assert device.stop() == 0
    told = [line for line in device.log().splitlines() if "its head does not load" in line]
    assert len(told) == 1
    assert "Input/output error" in told[0]
    assert device.counters()["failed"] == 0

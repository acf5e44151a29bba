"""Too little memory: the real program says so in one line, and what the ledger had reserved is given back."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.privacy import ledger

ENOUGH_BYTES = 4 << 30


def address_space_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    return pages * resource.getpagesize()


@pytest.fixture
def large_pictures(tmp_path: Path) -> Path:
    """Pictures that each take 48 MB to read, and little on the disk."""
    path = tmp_path / "large.npz"
    np.savez_compressed(path, pictures=np.zeros((2, 4000, 4000, 3), np.uint8))
    return path


def test_memory_that_runs_out_while_frames_flow(rig: Any, large_pictures: Path) -> None:
    server = rig.server()
    device = rig.device(
        server, source_path=str(large_pictures), device_state="state", release_mechanism="noise", planner_split=2
    )
    device.wait_more("offloaded", 2)
    pid = device.popen.pid
    limit_bytes = address_space_bytes(pid) - (64 << 20)
    resource.prlimit(pid, resource.RLIMIT_AS, (limit_bytes, ENOUGH_BYTES))
    assert device.ended() == os.EX_OSERR
    log = device.log()
    assert "Traceback" not in log
    assert log.splitlines()[-1].startswith("edge-runtime: error: not enough memory; ")
    ledger_state = ledger.read(device.config.parent / "state")
    assert ledger_state is not None
    assert ledger_state.reserved == {}
    assert ledger_state.total.releases >= device.count("offloaded") > 0


@pytest.mark.parametrize("limit_mb", range(150, 450, 50))
def test_a_start_with_too_little_memory_is_one_line_and_an_exit_code(rig: Any, limit_mb: int) -> None:
    config = rig.configure(source_repeat=1, device_state="state", emulation_slowdown=1.0)
    limit_bytes = limit_mb << 20
    done = subprocess.run(
        [sys.executable, "-m", "edge_runtime", "run", "-c", str(config)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes)),
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    if done.returncode != 0:
        if done.returncode == -signal.SIGABRT:  # a native library's own answer, which nothing of ours can catch
            return
        assert done.returncode in (os.EX_OSERR, os.EX_UNAVAILABLE), done.stderr
        assert done.stderr.splitlines()[-1].startswith("edge-runtime: error: ")
        assert "memory" in done.stderr.splitlines()[-1]
    else:
        answers = (config.parent / "answers.jsonl").read_text().splitlines()
        assert len([line for line in answers if json.loads(line)["kind"] == "frame"]) == 24

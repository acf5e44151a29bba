"""Who may read and write what the programs create, when their caller has set no umask at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.edge_runtime.conftest import run_program

OTHERS_MAY_WRITE = 0o022
OTHERS = 0o007


@contextmanager
def no_umask() -> Iterator[None]:
    """As the caller of a program has it who forgot; the programs inherit it."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.lstat().st_mode & 0o7777 for path in folder.rglob("*")}


@pytest.fixture
def folder(rig: Any) -> Path:
    """A device's folder as its owner has made it: config and nothing else."""
    watched = {"kind": "watch", "path": str(rig.parts.pictures), "poll_s": 0.05, "settle_s": 0.0}
    config = rig.configure(
        tables={
            "source": [
                {"name": "camera", **watched},
                {"name": "clients", "kind": "socket", "path": "sockets/frames.sock"},
            ],
            "sink": [
                {"name": "answers", "path": "answers/today.jsonl"},
                {"name": "listeners", "kind": "pub", "path": "sockets/answers.sock"},
            ],
            "device": {
                "bundle": str(rig.parts.bundle.root), "key": "keys/device.key", "state": "var/state",
                "status": "run/status.json",
            },
        },
        planner_split="local",
        emulation_slowdown=1.0,
    )  # fmt: skip
    for name in ("device.key", "device.pub"):
        (config.parent / name).unlink()
    return config.parent


def test_nothing_that_the_device_creates_may_be_written_to_by_others(rig: Any, folder: Path) -> None:
    before = modes(folder)
    config = folder / "device.toml"
    answers = folder / "answers" / "today.jsonl"
    with no_umask():
        assert run_program("edge_runtime", "keys", "make", "-c", config).returncode == 0
        popen, log = rig.start_program(folder, "edge_runtime", "run", "-c", str(config))
    device = rig.watch(config, popen, log)
    device.until(lambda: answers.exists() and answers.read_text().count('"kind":"frame"') == 4, "answers")
    device.until((folder / "run" / "status.json").exists, "status")
    while_it_ran = modes(folder)
    assert device.stop() == 0
    made = {name: mode for name, mode in (while_it_ran | modes(folder)).items() if name not in {*before, "log"}}
    assert {
        "answers/today.jsonl", "sockets/frames.sock", "sockets/answers.sock", "keys/device.key", "keys/device.pub",
        "var/state/ledger/slots", "run/status.json",
    } <= made.keys()  # fmt: skip
    assert {name: oct(mode) for name, mode in made.items() if mode & OTHERS_MAY_WRITE} == {}
    assert any("watched-" in name for name in made)
    assert any("profile-" in name for name in made)
    for private in ("var/state", "var/state/ledger", "var/state/models", "sockets/frames.sock", "keys/device.key"):
        assert made[private] & OTHERS == 0, private


def test_nothing_that_the_server_creates_may_be_written_to_by_others(rig: Any, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    config = folder / "server.toml"
    config.write_text(
        f'[server]\nlisten = "tcp://127.0.0.1:0"\nkey = "keys/server.key"\ndevices = "fleet/devices"\n'
        f'bundles = ["{rig.parts.bundle.root}"]\nstatus = "run/status.json"\nthreads = 1\n'
    )
    with no_umask():
        assert run_program("cloud_server", "keys", "make", "-c", config).returncode == 0
        key = (folder / "keys" / "server.pub").read_text().strip()
        allowed = run_program("cloud_server", "devices", "allow", "-c", config, "porch", key)
        assert allowed.returncode == 0, allowed.stderr
        popen, log = rig.start_program(folder, "cloud_server", "run", "-c", str(config))
    server = rig.watch(config, popen, log)
    server.until((folder / "run" / "status.json").exists, "status")
    made = {name: mode for name, mode in modes(folder).items() if name not in ("server.toml", "log")}
    assert server.stop() == 0
    assert {"fleet/devices", "keys/server.key", "run/status.json"} <= made.keys()
    assert {name: oct(mode) for name, mode in made.items() if mode & OTHERS_MAY_WRITE} == {}
    assert made["keys/server.key"] & 0o077 == 0

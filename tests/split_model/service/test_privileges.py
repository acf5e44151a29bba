"""Root becomes the service's user before it runs a model; in processes of their own, since there is no way back."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from split_model.service.privileges import User, service_user

NOBODY = pwd.getpwnam("nobody")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

_STEP_DOWN = """
import logging, os, sys
from pathlib import Path
from split_model.service.privileges import {function}
logging.basicConfig(format="%(message)s")
became = {function}("no-such-service", config=Path(sys.argv[1]), state=Path(sys.argv[2]))
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(became, *os.getresuid(), *os.getresgid(), os.getgroups(), status["CapEff"], status["NoNewPrivs"])
try:
    os.setuid(0)
except PermissionError:
    print("no way back")
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


def run(state: Path, function: str = "step_down") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _STEP_DOWN.format(function=function), state.parent / "config.toml", state]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_root
def test_root_becomes_the_owner_of_the_state_for_good(state: Path) -> None:
    os.chown(state, NOBODY.pw_uid, NOBODY.pw_gid)
    done = run(state)
    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    expected = f"nobody {uid} {uid} {uid} {gid} {gid} {gid} [{gid}] 0000000000000000 1"
    assert done.stdout.splitlines() == [expected, "no way back"], done.stderr


@needs_root
def test_an_owner_without_a_name_will_do(state: Path) -> None:
    os.chown(state, 4_321, 4_322)
    assert run(state).stdout.startswith("user 4321 4321 4321 4321 4322 4322 4322 [] 0000000000000000 1")


@needs_root
def test_where_nobody_is_to_be_found_it_says_that_models_run_as_root(state: Path) -> None:
    done = run(state)
    assert done.stdout.startswith("None 0 0 0 0 0 0")
    assert "models run as root here" in done.stderr
    assert state.stat().st_uid == 0


@needs_root
def test_the_program_is_not_run_as_root_on_a_users_state(state: Path) -> None:
    os.chown(state, NOBODY.pw_uid, NOBODY.pw_gid)
    done = run(state, "refuse_root_for")
    assert f"{state} belongs to nobody, but this is root; run 'systemctl start no-such-service'" in done.stderr
    os.chown(state, 0, 0)
    assert run(state, "refuse_root_for").returncode == 0


def test_a_config_elsewhere_is_nobodys_service(tmp_path: Path) -> None:
    """Not even one that has the name of a user, unless it lies in that service's folder in /etc."""
    assert service_user("nobody", config=tmp_path / "config.toml") is None
    assert service_user("nobody", config=Path("/etc/nobody/config.toml")) == User(
        NOBODY.pw_uid, NOBODY.pw_gid, "nobody"
    )
    assert service_user("no-such-service", config=Path("/etc/no-such-service/config.toml")) is None

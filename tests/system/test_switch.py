"""The switch to another release: its power cut at every place, and two deployments at once."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.system.rig.bundles import tiny_bundle
from tests.system.rig.deployed import ask
from tests.system.rig.house import BOARD, House
from tests.system.rig.workstation import Workstation

MOVED = ("--server-address", "tcp://10.77.0.2:5556")
SERVER = "/etc/edge-runtime/conf.d/server.toml"

#: In the place of a command: the Nth of those that the switch calls does not come to its end.
_STOPPING = """#!/bin/sh
if tr '\\0' ' ' </proc/$PPID/cmdline | grep -q 'step.sh edge-runtime switch'; then
    number=$(($(cat /root/calls) + 1))
    echo $number >/root/calls
    if [ $number -eq $(cat /root/stop) ]; then
        echo "{command} $*" >/root/stopped
        exec sleep 1000
    fi
fi
exec /usr/bin/{command} "$@"
"""
_COMMANDS = ("mv", "ln", "rm", "cp", "sync", "touch", "systemctl")


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_a_power_cut_before_any_command_of_the_switch(house: House, tmp_path: Path) -> None:
    """The whole of the old release or the whole of the new one, with its config, and it answers."""
    second, old = tiny_bundle(tmp_path, seed=2), house.release()
    before = {path: house.board.path(path).read_text() for path in (SERVER, "/opt/edge-runtime/placed")}
    for command in _COMMANDS:
        house.board.put(f"/usr/local/sbin/{command}", _STOPPING.format(command=command), 0o755)
    stopped = house.board.path("/root/stopped")
    cuts = []
    while house.release() == old:
        house.board.run(f"rm -f /root/stopped; echo 0 >/root/calls; echo {len(cuts) + 1} >/root/stop")
        run = house.desk.start("deploy/deploy.sh", "board", "--bundle", second, *BOARD, *MOVED)
        house.board.until(lambda run=run: stopped.exists() or run.poll() is not None, "no cut")
        if not stopped.exists():
            break
        cuts.append(stopped.read_text().strip())
        house.board.kill()
        run.communicate(timeout=120)
        house.board.boot()
        house.running()
        house.answers()
        if house.release() == old:
            assert {path: house.board.path(path).read_text() for path in before} == before, cuts[-1]
        else:
            assert "5556" in house.board.path(SERVER).read_text(), cuts[-1]
        assert house.board.run("systemctl is-system-running", check=False).stdout.strip() == "running", cuts[-1]
    print(*cuts, sep="\n")
    assert len(cuts) > 10
    for command in _COMMANDS:
        house.board.run(f"rm /usr/local/sbin/{command}")
    told = house.deploy(second, *MOVED)
    assert re.search(r"^board .* (deployed|unchanged)$", told.stdout, re.MULTILINE)
    assert house.release() != old
    assert house.board.run("ls /etc/systemd/system | grep -c undo", check=False).stdout.strip() == "0"


def test_two_deployments_at_once(house: House, tmp_path: Path) -> None:
    """Each ends with its release in use, or says that another came between; then it can be done again."""
    bundles = [tiny_bundle(tmp_path, seed=seed) for seed in (2, 3)]
    desks = [Workstation(tmp_path / f"desk{n}", [house.board, house.hall]) for n in range(2)]
    old = house.release()
    runs = [
        desk.start("deploy/deploy.sh", "board", "--bundle", bundle, *BOARD)
        for desk, bundle in zip(desks, bundles, strict=True)
    ]
    told = [(*run.communicate(timeout=400), run.returncode) for run in runs]
    for printed, said, code in told:
        assert (code == 0 and re.search(r"^board .* deployed$", printed, re.MULTILINE)) or (
            code == os.EX_SOFTWARE and "run the same command again" in printed
        ), (printed, said)
    assert any(code == 0 for *_, code in told)
    assert house.release() != old
    house.running()
    house.answers()
    for bundle in bundles:
        again = house.deploy(bundle)
        assert re.search(r"^board .* (deployed|unchanged)$", again.stdout, re.MULTILINE)
        assert ask(house.board) in ("local", "offloaded", "fallback")

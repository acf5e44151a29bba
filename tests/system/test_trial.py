"""What runs of a release before it is the service: as whom, within which bounds, and that it ends."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.system.rig import Machine, Wire
from tests.system.rig.bundles import tiny_bundle, with_a_head_that_does_not_run
from tests.system.rig.deployed import Deployed
from tests.system.rig.house import BOARD, House
from tests.system.rig.workstation import Workstation

#: Takes the place of a program in the release's environment: says as an error who it is, and what it can do.
PROBE = r"""#!/bin/sh
case "$*" in
"{command}"*) ;;
*) exec "$0.real" "$@" ;;
esac
exec {python} - <<'END'
import glob, json, os, socket, stat, sys
def can(do):
    try:
        do()
        return True
    except OSError:
        return False
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
service = [path for path in glob.glob("/proc/[0-9]*/comm") if open(path).read().strip() == "{program}"]
def connect():
    with socket.create_connection(("{server}", 22), 2):
        pass
def write(folder):
    path = folder + "/probe"
    open(path, "w").close()
    os.unlink(path)
def talks(path, kind):
    with socket.socket(socket.AF_UNIX, kind) as ours:
        ours.settimeout(2)
        ours.connect(path)
sockets = [path for folder, _, names in os.walk("/run") for path in (folder + "/" + name for name in names)
           if stat.S_ISSOCK(os.lstat(path).st_mode) and not path.startswith("/run/systemd/userdb/")]
kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)
folders = [folder for folder, *_ in os.walk("/") if not folder.startswith("/proc/")]
print("error:", json.dumps({{
    "uid": os.getuid(), "groups": os.getgroups(), "nnp": status["NoNewPrivs"], "seccomp": status["Seccomp"],
    "caps": sorted({{status[key].strip("0") for key in status if key.startswith("Cap")}}),
    "network": can(connect), "writes": [folder for folder in folders if can(lambda: write(folder))],
    "reads": [path for path in {secrets} if can(lambda: os.listdir(path) if os.path.isdir(path) else open(path))],
    "talks": [path for path in sockets if any(can(lambda: talks(path, kind)) for kind in kinds)],
    "sees": service, "key": can(lambda: open("/etc/{program}/config.toml")),
}}))
sys.exit(1)
END
"""


def replace(machine: Machine, program: str, script: str) -> None:
    """Put a script in the place of a program in the environment that the next release shares with this one."""
    place = machine.run(f"readlink -f /opt/{program}/current/bin/{program}").stdout.strip()
    machine.run(f"mv {place} {place}.real")
    machine.put(place, script, 0o755)


def probe(house: House, machine: Machine, program: str, command: str) -> None:
    """Have a command of the program say who it is instead."""
    key = "device" if program == "edge-runtime" else "server"
    secrets = [f"/etc/{program}/{key}.key", "/run/credentials", f"/run/credentials/{program}.service",
               f"/var/lib/{program}", "/etc/shadow"]  # fmt: skip
    python = f"/opt/{program}/current/venv/bin/python"
    server = house.wire.cloud_address
    script = PROBE.format(command=command, python=python, program=program, server=server, secrets=secrets)
    replace(machine, program, script)


class Before:
    """The release in use, and that it is unharmed after something."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._was = house.release(), house.process()

    def check(self) -> None:
        """It is still in use, was never restarted, and answers; nothing of the other one is left."""
        house = self._house
        assert (house.release(), house.process()) == self._was
        house.answers()
        assert house.board.run("ls /opt/edge-runtime/releases").stdout.split() == [self._was[0].rpartition("/")[2]]
        left = house.board.run("ls /run/systemd/system | grep trial; ls -d /opt/edge-runtime/trial", check=False)
        assert left.stdout == ""


def told(output: str) -> dict[str, Any]:
    """What the probe said of itself."""
    match = re.search(r"(\{\"uid\".*?\})", output)
    assert match, output
    return dict(json.loads(match[1]))


def test_what_a_bundle_brings_is_tried_by_a_user_who_can_do_nothing_else(house: House, tmp_path: Path) -> None:
    before = Before(house)
    service_uid = int(house.board.run("id -u edge-runtime").stdout)
    probe(house, house.board, "edge-runtime", "bench")
    found = told(house.deploy(tiny_bundle(tmp_path, seed=2), code=os.EX_DATAERR).stdout)
    assert found["uid"] not in (0, service_uid)
    assert found["caps"] == [""]
    assert (found["nnp"], found["seccomp"]) == ("1", "2")
    assert found["network"] is False
    assert found["reads"] == []
    assert found["talks"] == []
    assert found["sees"] == []  # so it can neither end nor read the running service
    assert [folder for folder in found["writes"] if not re.match(r"/(var/)?tmp(/|$)", folder)] == []
    before.check()


def test_a_server_tries_its_bundles_as_nobody_either(house: House, tmp_path: Path) -> None:
    probe(house, house.hall, "cloud-server", "config check -c config.toml")
    done = house.desk.deploy_server("hall", "--bundle", tiny_bundle(tmp_path, seed=2), code=os.EX_DATAERR)
    found = told(done.stdout)
    assert found["uid"] not in (0, int(house.hall.run("id -u cloud-server").stdout))
    assert (found["caps"], found["nnp"], found["network"], found["reads"]) == ([""], "1", False, [])


def test_the_config_is_checked_as_the_services_user_who_reads_no_key(house: House, tmp_path: Path) -> None:
    before = Before(house)
    probe(house, house.board, "edge-runtime", "config check")
    found = told(house.deploy(tiny_bundle(tmp_path, seed=2), code=os.EX_DATAERR).stdout)
    assert found["uid"] == int(house.board.run("id -u edge-runtime").stdout)
    assert (found["caps"], found["nnp"], found["network"], found["key"]) == ([""], "1", False, True)
    assert "/etc/edge-runtime/device.key" not in found["reads"]
    assert [path for path in found["talks"] if not path.startswith("/run/edge-runtime/")] == []
    own = r"/(var/)?tmp|/dev/|/(var/lib|run)/edge-runtime(/|$)"
    assert [folder for folder in found["writes"] if not re.match(own, folder)] == []
    before.check()


def test_a_trial_that_hangs_ends_and_all_that_it_started(house: House, tmp_path: Path) -> None:
    before = Before(house)
    replace(
        house.board,
        "edge-runtime",
        '#!/bin/sh\n[ "$1" = bench ] || exec "$0.real" "$@"\ntrap "" TERM HUP\nsleep 4321 & sleep 4321\nwait\n',
    )
    house.board.put("/etc/systemd/system/edge-runtime-trial.service.d/quick.conf", "[Service]\nTimeoutStartSec=3\n")
    done = house.deploy(tiny_bundle(tmp_path, seed=2), code=os.EX_DATAERR)
    assert "the trial did not come to its end within its time" in done.stdout
    assert house.board.run("pgrep -f '[s]leep 4321'", check=False).stdout == ""
    before.check()


def test_where_the_trial_cannot_be_confined_nothing_runs(house: House, tmp_path: Path) -> None:
    """A property that this systemd does not know is passed over; bounds that it cannot set end the deployment."""
    before = Before(house)
    house.board.put("/etc/systemd/system/edge-runtime.service.d/own.conf", "[Service]\nProtectFuture=yes\n")
    house.board.run("systemctl daemon-reload")
    second = tiny_bundle(tmp_path, seed=2)
    weak = "/etc/systemd/system/edge-runtime-trial.service.d/weak.conf"
    for line, why in (
        ("PrivateNetwork=no", "it would have the network"),
        ("AmbientCapabilities=CAP_KILL\nCapabilityBoundingSet=CAP_KILL", "it would have capabilities"),
        ("DynamicUser=no", "USER|exit-code 217"),
        ("DynamicUser=no\nUser=root", "it would run as root"),
        ("RootDirectory=/not/there", "exit-code 226|200"),
    ):
        house.board.put(weak, f"[Service]\n{line}\n")
        done = house.deploy(second, code=os.EX_SOFTWARE)
        assert "the trial could not be confined, and does not run without" in done.stdout, line
        assert re.search(why, done.stdout), (line, done.stdout)
        before.check()
    house.board.run(f"rm {weak}")
    assert re.search(r"^board .* deployed$", house.deploy(second).stdout, re.MULTILINE)


def test_edits_of_the_unit_hold_for_the_trial_too(house: House, tmp_path: Path) -> None:
    """Only what bounds it: what an edit has the service do beside is not done for a trial."""
    house.board.put(
        "/etc/systemd/system/edge-runtime.service.d/own.conf",
        "[Unit]\nOnFailure=never.service\n[Service]\nLimitNOFILE=321\nExecStartPre=/bin/sh -c 'echo >> /tmp/pre'\n",
    )
    house.board.run("systemctl daemon-reload")
    replace(
        house.board,
        "edge-runtime",
        '#!/bin/sh\n[ "$1" = bench ] || exec "$0.real" "$@"\n'
        'echo "error: limit $(ulimit -n), $(ls /tmp)"\nexit 1\n',
    )
    done = house.deploy(tiny_bundle(tmp_path, seed=2), code=os.EX_DATAERR)
    assert "limit 321," in done.stdout
    assert " pre" not in done.stdout


def test_a_bundle_that_does_not_run_ends_on_the_first_board_too(
    make_machine: Callable[..., Machine],
    make_workstation: Callable[..., Workstation],
    wire: Wire,
    deployed: Deployed,
    tmp_path: Path,
) -> None:
    """There is no user of the service yet, and none is left."""
    hall = make_machine("hall", wire, cloud=True, layers=(deployed.server,))
    board = make_machine("board", wire)
    desk = make_workstation(board, hall)
    broken = with_a_head_that_does_not_run(deployed.bundle, tmp_path / "broken")
    done = desk.deploy("board", "--bundle", broken, *BOARD, code=os.EX_DATAERR)
    assert "not a model that ai-edge-litert can read" in done.stdout
    assert board.run("getent passwd | grep -e edge-runtime", check=False).stdout == ""
    assert board.run("ls /opt/edge-runtime/releases").stdout == ""


def test_doctor_and_bench_with_sudo_run_the_model_as_the_services_user(house: House) -> None:
    owned = "find /var/lib/edge-runtime ! -user edge-runtime"
    assert "FAIL" not in house.board.ssh("sudo edge-runtime doctor").stdout
    assert house.board.run(owned).stdout == ""
    house.board.run("rm -f /var/lib/edge-runtime/profile*")
    assert "local" in house.board.ssh("sudo edge-runtime bench --runs 1").stdout
    assert house.board.run(owned).stdout == ""
    house.board.run("systemctl restart edge-runtime")
    done = house.board.ssh("sudo edge-runtime run", check=False)
    assert done.returncode == os.EX_NOPERM
    assert "/var/lib/edge-runtime belongs to edge-runtime, but this is root" in done.stderr
    assert "FAIL" not in house.hall.run("cloud-server doctor").stdout

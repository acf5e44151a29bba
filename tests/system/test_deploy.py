"""deploy.sh and deploy-server.sh on real machines: systemd, sshd, sudo, a link that breaks.

The first deployment, onto two machines that have nothing of ours, is made once (the fixture ``deployed``); the
other tests start from what it left.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.system.rig import Machine, Network, Wire
from tests.system.rig.bundles import tiny_bundle, with_a_head_that_does_not_run
from tests.system.rig.deployed import Asking, Deployed, ask, board_status, devices, hosted, server_status
from tests.system.rig.house import BOARD, House
from tests.system.rig.machine import USER
from tests.system.rig.workstation import Workstation

MakeMachine = Callable[..., Machine]
MakeWorkstation = Callable[..., Workstation]


def tree(machine: Machine, *folders: str) -> dict[str, str]:
    """Every file below some folders: type, mode, owner, size, and the moment it was last written."""
    there = " ".join(folders)
    listed = machine.run(rf"find {there} -printf '%p\t%y %m %U:%G %s %T@ %l\n' 2>/dev/null", check=False).stdout
    return dict(line.split("\t", 1) for line in listed.splitlines())


SYSTEM = ("/etc", "/opt", "/usr/local", "/home", "/root", "/var/lib")


def test_one_command_to_a_running_enrolled_answering_service(deployed: Deployed) -> None:
    assert re.search(r"^hall +[0-9a-f]{16} .* deployed$", deployed.told_server.stdout, re.MULTILINE)
    assert re.search(r"^board +[0-9a-f]{16} .* deployed$", deployed.told_board.stdout, re.MULTILINE)
    assert "--- board: doctor" in deployed.told_board.stdout
    assert deployed.board_status["condition"] == "running"
    assert deployed.board_status["counters"]["local"] == 1
    assert deployed.board_status["link"]["hosted"]
    assert deployed.server_status["condition"] == "running"
    assert list(deployed.devices) == ["board"]
    assert deployed.private_key_at == "600 root /etc/edge-runtime/device.key"


def test_the_board_and_the_server_work_together(house: House, tmp_path: Path) -> None:
    """The board is as fast as the server here, so the planner keeps everything on the board; tell it not to."""
    house.offload()
    house.board.until(lambda: server_status(house.hall)["counters"]["answered"], "no frame at the server")
    sink = "[[sink]]\nkind = 'jsonl'\npath = '/var/lib/edge-runtime/answers.jsonl'\n"
    house.board.put("/etc/edge-runtime/conf.d/keep.toml", sink)
    house.board.run("systemctl reload edge-runtime")
    house.board.until(
        lambda: ask(house.board) and house.board.run("cat /var/lib/edge-runtime/answers.jsonl").stdout, "kept"
    )
    page = tmp_path / "report.html"
    house.desk.run(sys.executable, "-m", "split_model", "report", "--from", "board", "--last", "1h", "-o", page)
    assert "Answers in board.jsonl" in page.read_text()

    # Without sudo, nothing is blamed that only this user may not do, and no two lines are of one thing.
    found = json.loads(house.board.ssh("edge-runtime doctor --json").stdout)
    assert [finding["about"] for finding in found if finding["level"] == "fail"] == []
    told = [finding["about"] for finding in found if finding["about"] != "accuracy"]  # of each cut
    assert len(set(told)) == len(told)
    by = {finding["about"]: finding for finding in found}
    for about in ("source", "sink", "key", "disk", "ledger", "server"):
        assert (about, by[about]["level"], by[about]["remedy"]) == (about, "warn", "run doctor with sudo")


def test_it_comes_back_after_a_power_cut(house: House) -> None:
    house.board.kill()
    house.board.boot()
    house.board.until(lambda: board_status(house.board).get("condition") == "running", "not running")
    house.answers()


def test_the_same_command_again_changes_nothing(house: House) -> None:
    volatile = ("/var/lib/edge-runtime", "/var/lib/systemd", "/var/lib/sudo", "/var/lib/private")
    before = {path: it for path, it in tree(house.board, *SYSTEM).items() if not path.startswith(volatile)}
    process = house.process()
    told = house.deploy(house.bundle)
    after = {path: it for path, it in tree(house.board, *SYSTEM).items() if not path.startswith(volatile)}
    assert re.search(r"^board .* 0\.0 MB .* unchanged$", told.stdout, re.MULTILINE)
    assert house.process() == process
    assert after == before
    server = house.desk.deploy_server("hall", "--bundle", house.bundle)
    assert server.stdout.rstrip().endswith("unchanged")


def test_another_bundle_sends_only_what_changed(house: House, tmp_path: Path) -> None:
    second = tiny_bundle(tmp_path, seed=2)
    house.desk.deploy_server("hall", "--bundle", second)
    old = house.release()
    told = house.deploy(second)
    sent_mb = float(re.search(r"^board +\w+ +([0-9.]+) MB", told.stdout, re.MULTILINE)[1])
    assert sent_mb < 5  # the bundle's files, and no wheel
    assert house.release() != old
    house.answers()
    listed = house.hall.run("cloud-server models list -c /etc/cloud-server/config.toml --json").stdout
    assert {bundle["name"] for bundle in json.loads(listed)} == {"tiny1", "tiny2"}
    house.board.until(lambda: hosted(house.board), "the server does not have its new bundle")


def test_a_bundle_that_does_not_run_never_takes_the_old_ones_place(house: House, tmp_path: Path) -> None:
    broken = with_a_head_that_does_not_run(house.bundle, tmp_path / "broken")
    old, process = house.release(), house.process()
    with Asking(house.board) as asking:
        told = house.deploy(broken, code=os.EX_DATAERR)
    assert "not a model that ai-edge-litert can read" in told.stdout
    assert (house.release(), house.process()) == (old, process)
    assert asking.ended is None, asking.complaint
    assert len(asking.answered_s) > 5
    assert asking.longest_wait_s < 10  # it never failed to answer; how fast is not for a test on a busy machine
    releases = house.board.run("ls /opt/edge-runtime/releases").stdout.split()
    assert releases == [old.rpartition("/")[2]]


def test_a_config_that_is_wrong_never_takes_the_old_ones_place(house: House, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(house.board.path("/etc/edge-runtime/config.toml").read_text() + "\n[plannner]\n")
    process, before = house.process(), house.board.path("/etc/edge-runtime/config.toml").read_text()
    told = house.deploy(house.bundle, "--config", str(wrong), code=os.EX_DATAERR)
    assert "did you mean 'planner'" in told.stdout
    assert house.process() == process
    assert house.board.path("/etc/edge-runtime/config.toml").read_text() == before


def test_a_release_that_does_not_start_is_rolled_back(house: House, tmp_path: Path) -> None:
    """Its trial is good and its config too; only as a service it fails."""
    old = house.release()
    house.board.put(
        "/etc/systemd/system/edge-runtime.service.d/trap.conf",
        '[Service]\nExecStartPre=/bin/sh -c \'test "$(readlink /opt/edge-runtime/current)" = ' + old + "'\n",
    )
    house.board.run("systemctl daemon-reload")
    told = house.deploy(tiny_bundle(tmp_path, seed=2), code=os.EX_SOFTWARE)
    assert f"{old.rpartition('/')[2]} is in use again" in told.stdout
    assert house.release() == old
    house.answers()


def test_a_release_that_only_says_that_it_is_ready_is_rolled_back(house: House, tmp_path: Path) -> None:
    """To systemd it is up and stays up; its own status knows better."""
    old = house.release()
    house.board.put(
        "/etc/systemd/system/edge-runtime.service.d/trap.conf",
        "[Service]\nNotifyAccess=all\nWatchdogSec=0\nExecStart=\n"
        f'ExecStart=/bin/sh -c \'if test "$(readlink /opt/edge-runtime/current)" = {old}; then '
        "exec /opt/edge-runtime/current/venv/bin/edge-runtime run -c /etc/edge-runtime/config.toml; "
        "else systemd-notify --ready; exec sleep infinity; fi'\n",
    )
    house.board.run("systemctl daemon-reload")
    told = house.deploy(tiny_bundle(tmp_path, seed=2), code=os.EX_SOFTWARE)
    assert f"{old.rpartition('/')[2]} is in use again" in told.stdout
    assert house.release() == old
    house.answers()


def test_a_rotated_key_is_the_boards_key(house: House) -> None:
    """A deployment neither admits the key before again nor leaves the new one admitted when it goes."""
    house.board.run("edge-runtime keys rotate")
    house.board.run("edge-runtime keys switch --untried && systemctl restart edge-runtime")
    house.hall.run("cloud-server devices revoke board")
    key = house.board.run("cat /etc/edge-runtime/device.pub").stdout.strip()
    refused = house.desk.deploy("board", "--bundle", house.bundle, *BOARD, code=os.EX_NOPERM)
    assert "hall has revoked this board's key (board); find out why; --readmit admits it again" in refused.stdout
    assert devices(house.hall) == {}
    house.desk.deploy("board", "--bundle", house.bundle, *BOARD, "--readmit")
    assert devices(house.hall) == {"board": key}
    told = house.desk.deploy("board", "--uninstall", "--server", "hall")
    assert devices(house.hall) == {}
    assert "Still to be run" not in told.stdout


STEPS = ("begin", "receive", "install", "keys", "trial", "activate")


def test_a_link_that_is_cut_in_the_middle_of_each_step(house: House, tmp_path: Path) -> None:
    """One cut a run; every next run goes on from there. With other wheels, so that no step has nothing to do."""
    second = tiny_bundle(tmp_path, seed=2)
    quick = ("--backend", "legacy", "-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=2")
    journal = house.board.path("/opt/edge-runtime/journal")
    first = house.release()
    for step in STEPS:
        done_before = journal.read_text()
        run = house.desk.start("deploy/deploy.sh", "board", "--bundle", second, *BOARD, *quick)
        house.board.until(
            lambda done=done_before, step=step: f" {step}\n" in journal.read_text()[len(done) :], f"no step {step}"
        )
        time.sleep(0.1)  # into it
        house.wire.down()
        printed, said = run.communicate(timeout=60)
        assert run.returncode == os.EX_UNAVAILABLE, (step, printed, said)
        assert "run the same command again" in printed, (step, printed)
        assert house.board.state("edge-runtime") in ("active", "reloading") or step == "activate"
        house.board.until(lambda: board_status(house.board).get("condition") == "running", f"down after {step}")
        house.answers()
        house.wire.up()
        house.board.until(lambda: house.desk.reaches("board"), f"no SSH after {step}")
        if step != "activate":
            assert house.release() == first
    told = house.deploy(second, "--backend", "legacy")
    assert re.search(r"^board .* (deployed|unchanged)$", told.stdout, re.MULTILINE)
    assert house.release() != first
    assert board_status(house.board)["condition"] == "running"
    assert (
        "tflite_runtime" in house.board.run("ls /opt/edge-runtime/current/venv/lib/python3.11/site-packages").stdout
    )
    assert house.board.run("ls /opt/edge-runtime/releases | grep -c partial", check=False).stdout.strip() == "0"


def test_a_power_cut_in_the_middle_of_the_switch(house: House, tmp_path: Path) -> None:
    second = tiny_bundle(tmp_path, seed=2)
    run = house.desk.start("deploy/deploy.sh", "board", "--bundle", second, *BOARD)
    journal = house.board.path("/opt/edge-runtime/journal")
    house.board.until(
        lambda: " switch from releases" in journal.read_text() or "switch from" in journal.read_text(), "no switch"
    )
    house.board.kill()
    run.communicate(timeout=120)
    house.board.boot()
    house.board.until(lambda: board_status(house.board).get("condition") == "running", "not running")
    told = house.deploy(second)
    assert re.search(r"^board .* (deployed|unchanged)$", told.stdout, re.MULTILINE)
    house.answers()


def held_up(house: House) -> Path:
    """Only the release in use now starts; any other takes its time. Returns what holds it up."""
    trap = house.board.path("/etc/systemd/system/edge-runtime.service.d/trap.conf")
    house.board.put(
        "/etc/systemd/system/edge-runtime.service.d/trap.conf",
        '[Service]\nExecStartPre=/bin/sh -c \'test "$(readlink /opt/edge-runtime/current)" = '
        f"{house.release()} || exec sleep 100'\n",
    )
    house.board.run("systemctl daemon-reload")
    return trap


MOVED = ("--server-address", "tcp://10.77.0.2:5556")
SERVER = "/etc/edge-runtime/conf.d/server.toml"


def test_a_power_cut_in_the_switch_is_undone_at_boot(house: House, tmp_path: Path) -> None:
    """It is cut while the new release starts, when all its files are in place, and nobody deploys again."""
    second, old = tiny_bundle(tmp_path, seed=2), house.release()
    before = {path: house.board.path(path).read_text() for path in (SERVER, "/opt/edge-runtime/placed")}
    held_up(house)
    run = house.desk.start("deploy/deploy.sh", "board", "--bundle", second, *BOARD, *MOVED)
    house.board.until(lambda: house.release() != old, "no switch")
    house.board.kill()
    run.communicate(timeout=120)
    assert house.board.path(SERVER).read_text() != before[SERVER]
    house.board.boot()
    house.board.until(lambda: board_status(house.board).get("condition") == "running", "not running")
    assert house.release() == old
    assert {path: house.board.path(path).read_text() for path in before} == before
    house.answers()
    house.board.until(lambda: hosted(house.board), "the server does not take it")
    assert house.board.run("systemctl is-system-running", check=False).stdout.strip() == "running"
    assert house.board.run("ls /etc/systemd/system | grep -c undo", check=False).stdout.strip() == "0"
    told = house.deploy(house.bundle)
    assert f"was undone at boot: {old.rpartition('/')[2]} is in use, as before" in told.stderr
    assert "undone" not in house.deploy(house.bundle).stderr


def test_what_was_edited_after_a_power_cut_in_the_switch_is_kept(house: House, tmp_path: Path) -> None:
    """On a card that is edited in another machine, say, before the board boots again."""
    second, old = tiny_bundle(tmp_path, seed=2), house.release()
    trap = held_up(house)
    run = house.desk.start("deploy/deploy.sh", "board", "--bundle", second, *BOARD, *MOVED)
    house.board.until(lambda: house.release() != old, "no switch")
    house.board.kill()
    run.communicate(timeout=120)
    trap.unlink()
    server = house.board.path(SERVER)
    edited = server.read_text() + "# mine\n"
    server.write_text(edited)
    house.board.boot()
    house.board.until(lambda: board_status(house.board).get("condition") == "running", "not running")
    assert (house.release(), server.read_text()) == (old, edited)
    house.board.run("echo '1 of-another-boot' > /opt/edge-runtime/receiving")  # and 1 is nobody's tar
    told = house.deploy(second, *MOVED)
    assert f"kept {SERVER}: it was edited there since" in told.stderr
    assert server.read_text() == edited
    assert house.release() != old
    house.answers()


def test_a_switch_that_was_killed_is_undone_by_the_next_deployment(house: House, tmp_path: Path) -> None:
    second, old = tiny_bundle(tmp_path, seed=2), house.release()
    trap = held_up(house)
    run = house.desk.start("deploy/deploy.sh", "board", "--bundle", second, *BOARD, *MOVED)
    house.board.until(lambda: house.release() != old, "no switch")
    house.board.run("systemctl kill --signal=KILL edge-runtime-deploy")
    printed, _ = run.communicate(timeout=120)
    assert "the switch was stopped halfway; run the same command again" in printed
    trap.unlink()
    house.board.run("systemctl daemon-reload; systemctl stop edge-runtime")
    told = house.deploy(second, *MOVED)
    assert f"{old.rpartition('/')[2]} is in use again" in told.stderr
    assert house.release() != old
    house.answers()


def test_a_dry_run_changes_nothing(
    make_machine: MakeMachine, make_workstation: MakeWorkstation, wire: Wire, deployed: Deployed
) -> None:
    hall = make_machine("hall", wire, cloud=True, layers=(deployed.server,))
    board = make_machine("board", wire)
    desk = make_workstation(board, hall)
    before = tree(board, *SYSTEM)
    told = desk.deploy("board", "--bundle", deployed.bundle, *BOARD, "--dry-run")
    assert "would send" in told.stderr
    assert "dry run: would deploy" in told.stdout
    assert tree(board, *SYSTEM) == before
    assert list(devices(hall)) == ["board"]  # of the deployment this hall has from before


def ask_by_the_boards_own_python(house: House) -> str:
    """A program of the board's own, with NumPy, which a package of the system would bring, and nothing of ours."""
    numpy = "/opt/edge-runtime/current/venv/lib/python3*/site-packages/numpy*"
    house.board.run(f"mkdir -p /opt/numpy && ln -sfn {numpy} /opt/numpy/")
    house.board.put(
        "/opt/numpy/ask.py", "from edge_runtime.client import Client\nprint(Client().describe().inputs[0])\n"
    )
    asked = house.board.run("cd / && PYTHONPATH=/opt/numpy /usr/bin/python3 /opt/numpy/ask.py").stdout
    house.board.run("rm -r /opt/numpy")
    return str(asked)


def test_uninstall_removes_what_was_made_and_says_what_it_keeps(house: House, rootfs: Path) -> None:
    assert "float32" in ask_by_the_boards_own_python(house)
    told = house.desk.deploy("board", "--uninstall", "--server", "hall")
    kept = re.findall(r"kept (\S+):", told.stderr)
    assert sorted(kept) == ["/etc/edge-runtime", "/var/lib/edge-runtime"]
    fresh = {f"/{path.relative_to(rootfs)}" for folder in SYSTEM for path in (rootfs / folder[1:]).rglob("*")}
    left = [
        path for path in tree(house.board, "/etc", "/opt", "/usr/local") if path not in fresh and path not in SYSTEM
    ]
    rigs = (
        "/etc/ssh/",
        "/etc/machine-id",
        "/etc/hosts",
        "/etc/.pwd.lock",
        "/etc/.updated",
        "/etc/subuid",
        "/etc/subgid",
    )
    ours = [path for path in left if not path.startswith((*kept, *rigs)) and not path.endswith("-")]
    assert ours == []
    assert house.board.run("systemctl cat edge-runtime", check=False).returncode != 0
    assert devices(house.hall) == {}
    again = house.desk.deploy("board", "--uninstall", "--purge", "--server", "hall")
    assert "uninstalled" in again.stdout
    assert house.board.run("ls -d /etc/edge-runtime /var/lib/edge-runtime", check=False).stdout == ""
    assert house.board.run("getent passwd edge-runtime; getent group edge-clients", check=False).stdout == ""


def test_several_hosts_at_once_and_one_line_for_each(
    house: House, make_machine: MakeMachine, make_workstation: MakeWorkstation, network: Network, tmp_path: Path
) -> None:
    yard = make_machine("yard", network.join())
    attic = make_machine("attic", network.join())
    old = attic.path("/usr/local/bin/uname")
    old.write_text("#!/bin/sh\necho armv7l\n")
    old.chmod(0o755)
    desk = Workstation(tmp_path / "desk", [house.board, house.hall, yard, attic])
    hosts = ("board", "yard", "attic", "gone.invalid")
    told = desk.deploy(*hosts, "--bundle", house.bundle, *BOARD, code=os.EX_UNAVAILABLE)
    lines = told.stdout.splitlines()[-4:]
    assert [line.split()[0] for line in lines] == list(hosts)
    assert lines[0].endswith("unchanged")
    assert lines[1].endswith("deployed")
    assert "armv7l is a 32-bit system: there are no 32-bit wheels" in lines[2]
    assert "no SSH connection" in lines[3]
    assert set(devices(house.hall)) == {"board", "yard"}
    assert board_status(yard)["condition"] == "running"


def test_another_server_is_taken_up_and_the_config_is_left_alone(house: House) -> None:
    house.board.run("echo '# mine' >> /etc/edge-runtime/config.toml")
    edited = house.board.path("/etc/edge-runtime/config.toml").read_text()
    moved = ("--server", "hall", "--server-address", "tcp://10.77.0.2:5556")
    house.desk.deploy("board", "--bundle", house.bundle, *moved)
    assert house.board.path("/etc/edge-runtime/config.toml").read_text() == edited
    assert not house.board.path("/etc/edge-runtime/config.toml.new").exists()
    assert board_status(house.board)["link"]["address"] == "tcp://10.77.0.2:5556"
    assert house.desk.deploy("board", "--bundle", house.bundle, *moved).stdout.rstrip().endswith("unchanged")


def test_an_edited_file_is_never_overwritten(house: House) -> None:
    server = house.board.path("/etc/edge-runtime/conf.d/server.toml")
    house.board.run("echo '# mine' >> /etc/edge-runtime/conf.d/server.toml")
    edited = server.read_text()
    told = house.deploy(house.bundle, "--server-address", "tcp://10.77.0.2:5556")
    assert "kept /etc/edge-runtime/conf.d/server.toml: it was edited there" in told.stderr
    assert server.read_text() == edited
    assert "5556" in server.with_name("server.toml.new").read_text()
    assert (
        house.deploy(house.bundle, "--server-address", "tcp://10.77.0.2:5556").stdout.rstrip().endswith("unchanged")
    )


def test_without_a_budget_nothing_leaves_the_board(
    make_machine: MakeMachine, make_workstation: MakeWorkstation, wire: Wire, deployed: Deployed
) -> None:
    """The budget has no default: the board answers everything itself until its owner has stated one."""
    hall = make_machine("hall", wire, cloud=True, layers=(deployed.server,))
    board = make_machine("board", wire, layers=(deployed.board,))
    desk = make_workstation(board, hall)
    desk.deploy("board", "--uninstall", "--purge", "--server", "hall")
    desk.deploy("board", "--bundle", deployed.bundle, "--server", "hall")
    board.until(lambda: hosted(board), "it is not connected")
    assert ask(board) == "local"
    board.until(lambda: board_status(board)["counters"]["local"], "the frame was not counted")
    assert board_status(board)["split"] == board_status(board)["local"]
    assert server_status(hall)["counters"]["requests"] == 0


def test_a_server_without_ssh_costs_one_command(
    make_machine: MakeMachine, make_workstation: MakeWorkstation, wire: Wire, deployed: Deployed
) -> None:
    hall = make_machine("hall", wire, cloud=True, layers=(deployed.server,))
    board = make_machine("board", wire)
    desk = make_workstation(board)  # its ssh knows no hall
    key = hall.run("cloud-server keys show -c /etc/cloud-server/config.toml").stdout.strip()
    address = f"{wire.cloud_address}:5555"
    server = ("--server", address, "--server-key", key, "--name", "porch", "-o", "ConnectTimeout=2")
    told = desk.deploy("board", "--bundle", deployed.bundle, *server, "--whole-input-budget", "unlimited")
    assert "deployed, not enrolled" in told.stdout
    assert board_status(board)["condition"] == "running"
    command = told.stdout.splitlines()[-1].strip()
    hall.ssh(command)
    assert "porch" in devices(hall)
    board.until(lambda: hosted(board), "it is not connected")


def test_what_a_user_may_not_do_is_said(
    board: Machine, make_workstation: MakeWorkstation, deployed: Deployed
) -> None:
    desk = make_workstation(board)
    board.run("rm /etc/sudoers.d/010_pi-nopasswd")
    key = "a" * 40
    arguments = ("board", "--bundle", deployed.bundle, "--server", "10.77.0.2", "--server-key", key,
                 "-o", "ConnectTimeout=2")  # fmt: skip
    told = desk.deploy(*arguments, code=os.EX_NOPERM)
    assert "'sudo -n' is refused" in told.stdout
    board.put("/etc/sudoers.d/some", f"{USER} ALL=(ALL) NOPASSWD: /usr/bin/true, /usr/bin/systemctl\n", 0o440)
    assert "'sudo -n' is refused" in desk.deploy(*arguments, code=os.EX_NOPERM).stdout
    assert board.run("ls /opt").stdout == ""
    desk.ssh_config.write_text(desk.ssh_config.read_text().replace(f"User {USER}", "User root"))
    known = board.folder / "known_hosts"
    known.write_text(known.read_text().replace("AAAAC3", "AAAAD3"))
    told = desk.deploy(*arguments, code=os.EX_UNAVAILABLE)
    assert "Host key verification failed" in told.stdout

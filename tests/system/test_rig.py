"""The rig itself: a machine boots, is reached by OpenSSH past a link that can be cut, and leaves nothing behind."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.system.rig import Machine, Wire


def test_a_board_boots_a_real_systemd_and_has_nothing_of_ours(board: Machine) -> None:
    assert board.run("cat /proc/1/comm").stdout.strip() == "systemd"
    assert board.run("systemctl is-system-running --wait", check=False).stdout.strip() == "running"
    assert board.ssh("sudo -n id -u; id -un").stdout.split() == ["0", "pi"]
    assert board.run("ls /opt").stdout == ""


def test_a_machine_writes_into_its_own_copy(board: Machine, rootfs: Path) -> None:
    board.put("/etc/made-by-a-test", "x")
    assert board.path("/etc/made-by-a-test").read_text() == "x"
    assert not (rootfs / "etc/made-by-a-test").exists()


def test_ssh_goes_over_the_link_and_the_way_for_tests_does_not(board: Machine, wire: Wire) -> None:
    wire.down()
    cut = board.ssh("true", check=False)
    assert cut.returncode == 255
    assert board.run("hostname").stdout.strip() == "board"
    wire.up()
    assert board.ssh("hostname").stdout.strip() == "board"


def test_two_boards_and_a_server_have_links_of_their_own(
    make_machine: Callable[..., Machine], board: Machine, wire: Wire, network
) -> None:
    server = make_machine("server", wire, cloud=True)
    second_wire = network.join()
    second = make_machine("second", second_wire)
    wire.down()
    ping = f"ping -c 1 -W 2 -q {second_wire.cloud_address}"
    assert second.run(ping).returncode == 0
    assert board.run(ping, check=False).returncode != 0
    assert server.ssh("hostname").stdout.strip() == "server"


def test_a_machine_that_is_gone_leaves_no_process_and_no_mount(
    make_machine: Callable[..., Machine], wire: Wire
) -> None:
    machine = make_machine("brief", wire)
    machine.poweroff()
    machine.boot()
    leader, folder = machine.leader, machine.folder
    machine.close()
    assert not Path(f"/proc/{leader}").exists()
    assert not folder.exists()
    assert str(folder) not in Path("/proc/self/mounts").read_text()
    names = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"--directory={machine.root}" not in names


def test_our_programs_are_installed_as_a_layer(
    make_machine: Callable[..., Machine], wire: Wire, product: Path
) -> None:
    machine = make_machine("board", wire, layers=(product,))
    for program in ("edge-runtime", "cloud-server", "split-model"):
        shown = machine.run(f"/opt/edge-runtime/current/venv/bin/{program} --version").stdout
        assert shown.startswith(program)
    assert machine.ssh("edge-runtime --version").stdout.startswith("edge-runtime")

"""Both programs under a real systemd: ready, idle, killed, hung, out of disk, revoked, reloaded, stopped.

Each test starts from the same two machines and puts back what it changed. What users are told: docs/operations.md.
"""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.system.rig import Machine, Network, Wire
from tests.system.rig.model import make_bundle
from tests.system.rig.service import Service, copy_in, device_service, server_service

HERE = Path(__file__).parent
PYTHON, PROGRAM = "/opt/edge-runtime/current/venv/bin/python", "/opt/edge-runtime/faulty_device.py"
FAULTY = f"[Service]\nExecStart=\nExecStart={PYTHON} {PROGRAM} run -c /etc/edge-runtime/config.toml\n"
QUICK = "[Service]\nWatchdogSec=2\nRestartSec=1\n"
#: At this cut features leave, under noise.
CUT = 1


@dataclass
class Pair:
    """A board with the device program, a hall with the server program, a link between them."""

    wire: Wire
    device: Service
    server: Service
    public_key: str
    material: Path

    def reset(self) -> None:
        """Both run, from a config in which every frame goes to the server; nothing of an earlier test is left."""
        self.wire.up()
        board = self.device.machine
        board.run("systemctl stop edge-runtime; systemctl reset-failed edge-runtime; true")
        board.run("umount /var/lib/edge-runtime", check=False)
        board.run("rm -rf /etc/edge-runtime/conf.d /etc/edge-runtime/hang /etc/edge-runtime/clock_offset_s")
        board.run("rm -f /var/lib/edge-runtime/answers.jsonl")
        self.device.drop_in("")
        self.device.configure(planner_split=CUT, source_interval_s=0.05, privacy_whole_input_budget="unlimited")
        self.server.start()

    def start(self, text: str = "") -> None:
        """Start the device program, with a changed unit, and wait until frames cross."""
        self.device.drop_in(text)
        self.device.start()
        self.until(lambda: self.device.counters().get("offloaded", 0) >= 3, "three frames offloaded")

    def until(self, holds: Callable[[], Any], what: str, *, timeout_s: float = 40.0) -> Any:
        return self.device.machine.until(holds, f"{what}: {self.device.log()[-1500:]}", timeout_s=timeout_s)

    def answers(self, kind: str = "frame") -> int:
        text = self.device.machine.run("cat /var/lib/edge-runtime/answers.jsonl").stdout
        return text.count(f'"kind":"{kind}"')


@pytest.fixture(scope="module")
def machines(rootfs: Path, product: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    material = tmp_path_factory.mktemp("material")
    make_bundle(material)
    folder = rootfs.parent / "machines"
    with Network() as network:
        wire = network.join()
        made = [
            Machine(name, layers=(product, rootfs), folder=folder, namespace=space, address=address, proxy="none")
            for name, space, address in (
                ("board", wire.edge, wire.board_address),
                ("hall", wire.cloud, wire.cloud_address),
            )
        ]
        try:
            for machine in made:
                machine.make()
                machine.boot()
            server = server_service(made[1], material)
            key = server.install(key="server")
            device = device_service(made[0], material, server=wire.cloud_address, server_key=key)
            public = device.install(key="device")
            copy_in(made[0], HERE / "faulty_device.py", "/opt/edge-runtime/faulty_device.py")
            made[1].run(f"cloud-server devices allow porch '{public}'")
            yield Pair(wire, device, server, public, material)
        finally:
            for machine in made:
                machine.close()


@pytest.fixture
def pair(machines: Pair) -> Pair:
    machines.reset()
    return machines


def spent(service: Service) -> dict[str, Any]:
    return dict(service.status()["ledger"]["spent"])


def is_back(service: Service, pid: int) -> bool:
    """Whether it runs again, as another process."""
    return service.pid not in (0, pid) and service.status().get("condition") == "running"


@pytest.mark.parametrize("unit", ["edge-runtime", "cloud-server"])
def test_exposure(pair: Pair, unit: str) -> None:
    machine = (pair.device if unit == "edge-runtime" else pair.server).machine
    told = machine.run(f"systemd-analyze security --no-pager {unit}").stdout
    exposure = float(re.search(r"Overall exposure level for [\w-]+\.service: ([0-9.]+)", told)[1])  # type: ignore[index]
    print(f"{unit}: exposure {exposure}")
    assert exposure <= 2.5


def test_ready_without_a_server_and_answering(pair: Pair) -> None:
    """An offline start is a normal start: 'systemctl start' returns when frames are answered here."""
    pair.server.machine.run("systemctl stop cloud-server")
    pair.device.start()
    assert pair.device.show("SubState") == "running"
    assert pair.device.status()["condition"] == "running"
    pair.until(lambda: pair.device.counters()["frames_in"] > 3, "frames")
    found = pair.device.status()
    assert found["link"]["up"] is False
    assert found["counters"]["local"] + found["under_way"] >= found["counters"]["frames_in"] - 1
    assert "link down" in pair.device.show("StatusText")


def test_what_cannot_answer_is_never_ready_and_not_tried_again(pair: Pair) -> None:
    board = pair.device.machine
    board.run("cp -r /opt/edge-runtime/bundle /opt/edge-runtime/broken; cd /opt/edge-runtime/broken; "
              "for f in $(find . -name '*.tflite'); do printf x >> $f; done")  # fmt: skip
    pair.device.configure(device_bundle="/opt/edge-runtime/broken")
    try:
        assert board.run("systemctl start edge-runtime", check=False).returncode != 0
        assert pair.device.show("ActiveState") == "failed"
        assert int(pair.device.show("ExecMainStatus")) == os.EX_DATAERR
        time.sleep(6)  # longer than RestartSec
        assert (pair.device.restarts, pair.device.show("ActiveState")) == (0, "failed")
    finally:
        pair.device.configure(device_bundle="/opt/edge-runtime/bundle")


def test_idle_for_longer_than_the_watchdog(pair: Pair) -> None:
    pair.device.configure(source_interval_s=3600.0)
    pair.device.drop_in(QUICK)
    pair.device.start()
    pid = pair.device.pid
    time.sleep(7)
    assert (pair.device.pid, pair.device.restarts) == (pid, 0)
    assert pair.device.status()["condition"] == "running"


def test_killed_it_comes_back_and_the_ledger_counts_all_that_left(pair: Pair) -> None:
    pair.start(QUICK)
    before, pid = spent(pair.device), pair.device.pid
    pair.device.machine.run(f"kill -9 {pid}")
    pair.until(lambda: is_back(pair.device, pid), "back")
    pair.until(lambda: pair.device.counters().get("offloaded", 0) > 0, "frames offloaded again")
    after = spent(pair.device)
    assert pair.device.restarts == 1
    assert after["releases"] >= before["releases"]
    assert after["whole_input_epsilon"] >= before["whole_input_epsilon"]
    assert after["releases"] >= pair.server.counters()["requests"]  # since the server's start, which is later
    assert "count as made" in pair.device.log()


def test_a_hung_inference_thread_is_found_and_the_program_restarted(pair: Pair) -> None:
    pair.start(FAULTY + QUICK)
    board, pid = pair.device.machine, pair.device.pid
    board.put("/etc/edge-runtime/hang", "")
    pair.until(lambda: pair.device.restarts >= 1 or pair.device.pid not in (0, pid), "the watchdog")
    board.run("rm /etc/edge-runtime/hang")
    pair.until(lambda: pair.device.counters().get("offloaded", 0) > 3, "frames again")
    log = pair.device.log()
    assert "stuck: the answer of frame" in log
    assert "Watchdog timeout" in log
    assert "faulty_device.py" in log  # the traceback says where it hung


def test_a_full_disk_is_told_until_there_is_room_and_loses_no_count(pair: Pair) -> None:
    board = pair.device.machine
    board.run("mount -t tmpfs -o size=1m,mode=0700 tmpfs /var/lib/edge-runtime")
    pair.start(QUICK)
    before = spent(pair.device)
    board.run("dd if=/dev/zero of=/var/lib/edge-runtime/filler bs=4k status=none; true")
    pair.until(lambda: "No space left on device" in pair.device.show("StatusText"), "told")
    assert "No space left on device" in pair.device.log()
    pair.until(lambda: pair.device.status()["sinks"]["jsonl"].get("lost", 0) > 0, "what it did not take is counted")
    whole = board.run("tail -c1 /var/lib/edge-runtime/answers.jsonl | od -An -c").stdout.strip()
    assert whole == "\\n"  # no half a line
    written = board.run("wc -l < /var/lib/edge-runtime/answers.jsonl").stdout
    board.run("rm /var/lib/edge-runtime/filler")
    pair.until(
        lambda: int(board.run("wc -l < /var/lib/edge-runtime/answers.jsonl").stdout) > int(written) + 3, "again"
    )
    pair.until(lambda: "No space left" not in pair.device.show("StatusText"), "the trouble is over")
    assert pair.device.restarts == 0
    assert spent(pair.device)["releases"] >= before["releases"]


def test_a_full_disk_that_only_the_ledger_is_on_changes_nothing(pair: Pair) -> None:
    """Its two slots have their place on the disk since the first start."""
    board = pair.device.machine
    board.run("mount -t tmpfs -o size=1m,mode=0700 tmpfs /var/lib/edge-runtime")
    pair.device.configure(sink_path=None)
    try:
        pair.start(QUICK)
        board.run("dd if=/dev/zero of=/var/lib/edge-runtime/filler bs=4k status=none; true")
        seen = pair.device.counters()["offloaded"]
        pair.until(lambda: pair.device.counters().get("offloaded", 0) > seen + 100, "frames go on past a block")
        assert pair.device.restarts == 0
    finally:
        pair.device.configure(sink_path="/var/lib/edge-runtime/answers.jsonl")


def test_a_revoked_key_and_a_key_allowed_again(pair: Pair) -> None:
    pair.start()
    pid = pair.device.pid
    pair.server.machine.run("cloud-server devices revoke porch")
    try:
        pair.until(lambda: pair.device.status()["link"]["up"] is False, "refused")
        seen = pair.device.counters()
        pair.until(lambda: pair.device.counters()["local"] > seen["local"] + 5, "answered here")
        pair.until(lambda: pair.device.status()["link"]["trouble_kind"] == "key_refused", "the reason")
        done = pair.device.machine.run("edge-runtime doctor", check=False)
        assert done.returncode == os.EX_NOPERM
        assert "cloud-server devices allow" in done.stdout
        requests = pair.server.counters()["requests"]
        time.sleep(1)
        assert pair.server.counters()["requests"] == requests
    finally:
        pair.server.machine.run(f"cloud-server devices allow porch '{pair.public_key}'")
    seen = pair.device.counters()
    pair.until(lambda: pair.device.counters()["offloaded"] > seen["offloaded"] + 3, "offloaded again")
    assert (pair.device.pid, pair.device.restarts) == (pid, 0)


def test_a_clock_that_jumps_by_a_year(pair: Pair) -> None:
    """No budget comes back, no frame is lost, and the status still tells a living program."""
    window = {"privacy_window_s": 86400.0, "privacy_window_budget": 1e9}
    pair.device.configure(**window)
    try:
        pair.start(FAULTY + QUICK)
        pid, before = pair.device.pid, pair.device.status()["ledger"]["window"]
        for offset_s in (366 * 86400, -366 * 86400):
            pair.device.machine.put("/etc/edge-runtime/clock_offset_s", str(offset_s))
            seen = pair.device.counters()["frames_in"]
            pair.until(lambda seen=seen: pair.device.counters()["frames_in"] > seen + 20, "frames go on")
            found = pair.device.status()
            assert abs(found["written_unix_s"] - time.time() - offset_s) < 3600  # it did jump
            assert (found["condition"], found["overdue"]) == ("running", [])
            assert found["ledger"]["window"]["left"] <= before["left"]
            assert found["ledger"]["window"]["next_in_s"] <= before["next_in_s"]
        assert (pair.device.pid, pair.device.restarts) == (pid, 0)
    finally:
        pair.device.configure(privacy_window_s=None, privacy_window_budget=None)


def test_reload_by_systemctl(pair: Pair) -> None:
    pair.start()
    board, pid = pair.device.machine, pair.device.pid
    board.put("/etc/edge-runtime/conf.d/10-local.toml", "[planner]\nsplit = 'local'\n")
    board.run("systemctl reload edge-runtime")
    seen = pair.device.counters()["local"]
    pair.until(lambda: pair.device.counters()["local"] > seen + 5, "the changed config")
    board.put("/etc/edge-runtime/conf.d/20-wrong.toml", "[planner]\nsplitt = 1\n")
    refused = board.run("systemctl reload edge-runtime", check=False)
    assert refused.returncode != 0
    assert "20-wrong.toml: planner.splitt: unknown key; did you mean 'split'" in pair.device.log()
    seen = pair.device.counters()["local"]
    pair.until(lambda: pair.device.counters()["local"] > seen + 5, "still answering")
    board.run("kill -HUP " + str(pid))  # past systemd's check
    pair.until(lambda: "splitt" in pair.device.status()["reload_error"], "told in the status")
    assert (pair.device.pid, pair.device.show("ActiveState")) == (pid, "active")
    board.run("rm /etc/edge-runtime/conf.d/20-wrong.toml; systemctl reload edge-runtime")
    pair.until(lambda: pair.device.status()["reload_error"] == "", "mended")

    # Another source takes the place of the one of the main file; what only a restart takes up fails the reload.
    board.run("mkdir -p /srv/incoming")
    board.put("/etc/edge-runtime/conf.d/30-watch.toml", "[[source]]\nkind = 'watch'\npath = '/srv/incoming'\n")
    board.run("systemctl reload edge-runtime")
    pair.until(lambda: list(pair.device.status()["sources"]) == ["watch"], "the other source")
    board.put("/etc/edge-runtime/conf.d/40-state.toml", "[device]\nstate = '/var/lib/edge-runtime/other'\n")
    assert board.run("systemctl reload edge-runtime", check=False).returncode != 0
    assert "device.state cannot change while the program runs; run 'systemctl restart edge-runtime'" in (
        pair.device.log()
    )
    board.run("rm /etc/edge-runtime/conf.d/30-watch.toml /etc/edge-runtime/conf.d/40-state.toml")
    for _ in range(6):
        board.run("systemctl reload edge-runtime")
    pair.until(lambda: list(pair.device.status()["sources"]) == ["files"], "the first source again")
    assert (pair.device.pid, pair.device.show("ActiveState")) == (pid, "active")
    assert "connections here, the limit" not in pair.device.log()
    board.run("systemctl stop edge-runtime")
    stopped = board.run("edge-runtime status", check=False)
    assert (stopped.returncode, stopped.stdout.split()[0]) == (os.EX_UNAVAILABLE, "stopped")


def test_stop_drains_and_gives_the_rest_of_the_block_back(pair: Pair) -> None:
    pair.start()
    pair.device.machine.run("systemctl stop edge-runtime")
    assert pair.device.show("Result") == "success"
    assert int(pair.device.show("ExecMainStatus")) == 0
    done = pair.device.log().rsplit("done: ", 1)[1].split("\n")[0]
    entries = (entry.split("=") for entry in done.split())
    counters = defaultdict(float, {key: float(value) for key, value in entries})  # those of zero are left out
    ends = ("offloaded", "local", "fallback", "failed", "dropped")
    assert counters["frames_in"] == sum(counters[end] for end in ends) == pair.answers()
    ledger = pair.device.machine.run("edge-runtime ledger --json").stdout
    assert '"reserved":{"whole_input_epsilon":0.0' in ledger


def test_stop_while_the_name_server_is_silent(pair: Pair) -> None:
    """ZeroMQ resolves names in a thread of its own, and cannot be closed while it waits there."""
    board = pair.device.machine
    before = board.run("cat /etc/resolv.conf", check=False).stdout
    board.put("/etc/resolv.conf", f"nameserver {pair.wire.cloud_address}\n")
    pair.wire.lose(1.0, at="cloud")
    pair.device.configure(server_address="tcp://server.example:5555")
    try:
        pair.device.start()
        pair.until(lambda: pair.device.counters().get("local", 0) > 5, "answered here")
        began_s = time.monotonic()
        board.run("systemctl stop edge-runtime")
        print(f"stopped after {time.monotonic() - began_s:.1f} s: {pair.device.show('Result')}")
        assert '"reserved":{"whole_input_epsilon":0.0' in board.run("edge-runtime ledger --json").stdout
        assert pair.device.show("Result") == "success"
    finally:
        pair.wire.heal()
        board.put("/etc/resolv.conf", before)
        pair.device.configure(server_address=f"tcp://{pair.wire.cloud_address}:5555")


def test_the_client_group_may_look_and_nobody_may_take(pair: Pair) -> None:
    pair.start()
    board = pair.device.machine
    as_pi = "runuser -u pi --"
    denied = board.run(f"{as_pi} edge-runtime status", check=False)
    assert denied.returncode == os.EX_NOPERM
    assert "join the service's group" in denied.stderr
    board.run("usermod -aG edge-clients pi")
    assert board.run(f"{as_pi} edge-runtime status").stdout.startswith("running")
    for secret in ("/etc/edge-runtime/device.key", "/run/credentials/edge-runtime.service/device.key",
                   "/var/lib/edge-runtime/ledger/slots"):  # fmt: skip
        assert board.run(f"test -e {secret} && {as_pi} cat {secret}", check=False).returncode != 0


def test_the_server_comes_back_and_takes_up_bundles(pair: Pair) -> None:
    pair.start()
    hall, pid = pair.server.machine, pair.server.pid
    hall.run(f"kill -9 {pid}")
    hall.until(lambda: is_back(pair.server, pid), "back")
    seen = pair.device.counters()["offloaded"]
    pair.until(lambda: pair.device.counters()["offloaded"] > seen + 3, "offloaded again")
    other = pair.material.parent / f"{pair.material.name}-other"
    bundle = make_bundle(other, seed=5)
    copy_in(hall, other / "bundle", "/srv/bundles/two")
    pid, seen = pair.server.pid, pair.device.counters()
    hall.run("systemctl reload cloud-server")
    hall.until(lambda: bundle.identity in pair.server.status()["bundles"], "the other bundle")
    pair.until(lambda: pair.device.counters()["offloaded"] > seen["offloaded"] + 20, "frames go on")
    assert pair.server.pid == pid
    hall.run("rm -r /srv/bundles/two; systemctl reload cloud-server")
    hall.until(lambda: bundle.identity not in pair.server.status()["bundles"], "gone again")
    assert pair.device.counters()["failed"] == 0

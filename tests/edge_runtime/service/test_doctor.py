"""What doctor says of a board: real processes, and every reason for which a server does not serve."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from edge_runtime.board.sensors import Sensors
from edge_runtime.service.doctor import examine

Ask = Callable[..., tuple[int, dict[str, dict[str, Any]]]]


@pytest.fixture
def ask(command: Callable[..., Any]) -> Ask:
    """Exit code and findings; of several about one thing the last."""

    def run(config: Path, *more: str) -> tuple[int, dict[str, dict[str, Any]]]:
        done = command("edge_runtime", "doctor", "--json", "-c", config, *more)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, {finding["about"]: finding for finding in json.loads(done.stdout)}

    return run


def test_a_device_that_is_well(rig: Any, ask: Ask, command: Any) -> None:
    server = rig.server()
    device = rig.device(server, source_repeat=0, source_interval_s=0.05)
    device.wait_more("offloaded")
    code, found = ask(device.config)
    wrong = {about: finding for about, finding in found.items() if finding["level"] == "fail"}
    assert (code, wrong) == (0, {})
    for about in (
        "config",
        "bundle",
        "backend",
        "source",
        "sink",
        "disk",
        "key",
        "ledger",
        "program",
        "network",
        "server",
        "hosted",
    ):
        assert found[about]["level"] == "ok", found[about]
    assert device.public.decode() in found["key"]["text"]
    assert "round trip" in found["server"]["text"]
    text = command("edge_runtime", "doctor", "-c", device.config).stdout
    assert "ok    hosted    it hosts" in text
    assert command("edge_runtime", "doctor", "--no-server", "-c", device.config).returncode == 0


def test_a_refused_key_says_what_to_run_at_the_server(rig: Any, ask: Ask) -> None:
    server = rig.server()
    config = rig.configure(server)
    code, found = ask(config)
    assert (code, found["network"]["level"], found["server"]["level"]) == (os.EX_NOPERM, "ok", "fail")
    public = (config.parent / "device.pub").read_text().strip()
    assert f"cloud-server devices allow -c FILE NAME '{public}'" in found["server"]["remedy"]


def test_a_wrong_server_key(rig: Any, ask: Ask) -> None:
    server = rig.server()
    config = rig.configure(server, server_public_keys=[zmq.curve_keypair()[0].decode()])
    server.allow("device", (config.parent / "device.pub").read_bytes().strip())
    code, found = ask(config)
    assert (code, found["server"]["level"]) == (os.EX_UNAVAILABLE, "fail")
    assert "server.public_keys" in found["server"]["remedy"]


def test_one_of_two_server_keys_is_enough(rig: Any, ask: Ask) -> None:
    server = rig.server()
    keys = [zmq.curve_keypair()[0].decode(), server.key.decode()]
    config = rig.configure(server, server_public_keys=keys)
    server.allow("device", (config.parent / "device.pub").read_bytes().strip())
    code, found = ask(config)
    assert (code, found["server"]["level"]) == (0, "ok")


@pytest.mark.parametrize(
    ("address", "about", "says"),
    [
        ("tcp://no-such-host.invalid:5555", "network", "has no address"),
        ("tcp://127.0.0.1:{free}", "network", "nothing listens on that port"),
        ("tcp://127.0.0.1:{silent}", "server", "sends nothing"),
    ],
)
def test_why_a_server_is_not_reached(rig: Any, ask: Ask, address: str, about: str, says: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # taken, but nothing listens
        ports = {"free": free.getsockname()[1], "silent": silent.getsockname()[1]}
        code, found = ask(rig.configure(server_address=address.format(**ports)))
    assert (code, found[about]["level"]) == (os.EX_UNAVAILABLE, "fail")
    assert says in found[about]["text"] + found[about]["remedy"]
    assert found[about]["remedy"]


def test_a_server_of_another_version(rig: Any, ask: Ask, scripted: Any) -> None:
    scripted.versions_refused = True
    config = rig.configure(server_address=scripted.address, server_public_keys=[scripted.public.decode()])
    code, found = ask(config)
    assert (code, found["server"]["level"]) == (os.EX_UNAVAILABLE, "fail")
    assert "version" in found["server"]["text"]
    assert "upgrade" in found["server"]["text"] + found["server"]["remedy"]


def test_a_server_that_hosts_another_bundle(rig: Any, ask: Ask) -> None:
    server = rig.server(bundle=rig.other_bundle())
    config = rig.configure(server)
    server.allow("device", (config.parent / "device.pub").read_bytes().strip())
    code, found = ask(config)
    assert (code, found["hosted"]["level"]) == (0, "warn")
    assert rig.parts.bundle.identity[:12] in found["hosted"]["text"]


def test_what_is_wrong_on_the_board_itself(rig: Any, ask: Ask) -> None:
    config = rig.configure(planner_splitt=3)
    code, found = ask(config, "--no-server")
    assert (code, found["config"]["level"]) == (os.EX_CONFIG, "fail")
    assert "did you mean 'split'" in found["config"]["text"] + found["config"]["remedy"]
    assert "clock" in found
    config = rig.configure(device_bundle="/nowhere")
    assert ask(config, "--no-server")[1]["bundle"]["exit_code"] == os.EX_NOINPUT
    config = rig.configure()
    (config.parent / "device.key").chmod(0o644)
    code, found = ask(config, "--no-server")
    assert (code, found["key"]["level"]) == (os.EX_NOPERM, "fail")
    assert "chmod 600" in found["key"]["remedy"]
    (config.parent / "device.key").unlink()
    code, found = ask(config, "--no-server")
    assert (code, "keys make" in found["key"]["remedy"]) == (os.EX_NOINPUT, True)


def test_a_ledger_that_is_lost_fails_and_a_spent_one_warns(rig: Any, ask: Ask) -> None:
    server = rig.server()
    device = rig.device(server, device_state="own", source_repeat=0)
    device.wait_more("offloaded")
    device.stop()
    config = rig.configure(server, device_state="own", privacy_whole_input_budget=1.0)
    found = ask(config, "--no-server")[1]
    assert found["ledger"]["level"] == "warn"
    assert "nothing left of 1" in found["ledger"]["text"]
    shutil.rmtree(config.parent / "own" / "ledger")
    code, found = ask(config, "--no-server")
    assert (code, found["ledger"]["level"]) == (os.EX_DATAERR, "fail")


def test_a_program_that_does_not_run_where_it_is_no_service_is_no_fault(rig: Any, ask: Ask) -> None:
    config = rig.configure()
    code, found = ask(config, "--no-server")
    assert (code, found["program"]["level"]) == (0, "ok")
    assert found["program"]["text"] == f"not running; 'edge-runtime run -c {config}' starts it"


def test_nothing_is_said_of_sensors_that_are_not_there(rig: Any, ask: Ask) -> None:
    """But of one that is: its own word."""
    found = ask(rig.configure(), "--no-server")[1]
    readings = Sensors().read()
    assert ("heat" in found) == (readings.temperature_c is not None)
    assert ("power" in found) == (readings.throttling is not None)


def test_a_camera_tells_its_size_and_rate(rig: Any, ask: Ask, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV: the extra 'camera'")
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 48))
    for _ in range(5):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    camera = {"kind": "camera", "name": "door", "device": str(path)}
    found = ask(rig.configure(tables={"source": camera}), "--no-server")[1]
    assert (found["source"]["level"], found["source"]["text"]) == ("ok", "door: 64 x 48, 10 frames a second")
    camera["device"] = str(rig.parts.arrays)  # no video
    code, found = ask(rig.configure(name="other", tables={"source": camera}), "--no-server")
    assert (code, found["source"]["level"]) == (os.EX_NOINPUT, "fail")
    assert f"camera {rig.parts.arrays} cannot be opened" in found["source"]["text"]


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, or mounts, which needs root")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, which those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="doctor-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def service(rig: Any, open_folder: Path) -> Path:
    """The config of a program that runs as `nobody`: the owner of its state. Only root may read its key."""
    state, incoming, bundle = (open_folder / name for name in ("state", "incoming", "bundle"))
    shutil.copytree(rig.parts.bundle.root, bundle)
    for folder in (state, incoming):
        folder.mkdir()
        shutil.chown(folder, "nobody")
    for path in (*bundle.rglob("*"), bundle):
        path.chmod(0o755)
    written = rig.configure(
        device_state=str(state),
        device_bundle=str(bundle),
        device_key=str(open_folder / "device.key"),
        tables={"source": {"kind": "watch", "path": str(incoming)}},
    )
    shutil.copy(written.parent / "device.key", open_folder)
    return Path(shutil.copy(written, open_folder))


def to_answers(config: Path, path: Path) -> None:
    config.write_text(config.read_text().replace("answers.jsonl", str(path)))


@needs_root
def test_sinks_are_checked_as_the_service_s_user(service: Path, ask: Ask, command: Any) -> None:
    closed, opened = service.parent / "closed", service.parent / "opened"
    closed.mkdir()
    opened.mkdir()
    shutil.chown(opened, "nobody")
    to_answers(service, opened / "answers.jsonl")
    assert ask(service, "--no-server")[1]["sink"]["level"] == "ok"
    assert command("edge_runtime", "config", "check", "-c", service).returncode == 0
    to_answers(service, closed / "x")
    service.write_text(service.read_text().replace(str(opened), str(closed)))
    code, found = ask(service, "--no-server")
    assert (code, found["sink"]["level"]) == (os.EX_CANTCREAT, "fail")
    assert f"{closed}: Permission denied" in found["sink"]["text"]
    done = command("edge_runtime", "config", "check", "-c", service)
    assert done.returncode == os.EX_CANTCREAT
    assert f"{closed}: Permission denied" in done.stderr


def test_another_user_s_rights_are_no_fault_of_the_board(rig: Any) -> None:
    """Without sudo, a user who is not the service's: one line a subject, and none blames the board."""
    config = rig.configure()
    findings = list(examine(config, None, server=False, another_user=lambda _: "edge-runtime"))
    told = [finding.about for finding in findings if finding.about != "accuracy"]  # of each cut
    assert len(set(told)) == len(told)  # two lines could contradict each other
    by = {finding.about: finding for finding in findings}
    for about in ("source", "sink", "disk"):
        assert (about, by[about].level, by[about].remedy) == (about, "warn", "run doctor with sudo")
        assert "edge-runtime" in by[about].text


@needs_root
def test_a_state_that_the_kernel_made_read_only_is_a_failure(rig: Any) -> None:
    device = rig.device(device_state="state", source_repeat=1)
    assert device.ended() == 0
    state = device.config.parent / "state"
    doctor = f"{sys.executable} -m edge_runtime doctor --no-server --json -c {device.config}"
    script = f"mount --bind {state} {state} && mount -o remount,bind,ro {state} && exec {doctor}"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], check=False, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    found = [finding for finding in json.loads(done.stdout) if finding["about"] == "disk"]
    assert [finding["level"] for finding in found] == ["fail"]
    assert f"the file system at {state} is read-only" in found[0]["text"]
    assert f"mount -o remount,rw {state}" in found[0]["remedy"]
    assert done.returncode == os.EX_CANTCREAT

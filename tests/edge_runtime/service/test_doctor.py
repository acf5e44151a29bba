"""What doctor says of a board: real processes, and every reason for which a server does not serve."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq

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
        ("tcp://127.0.0.1:{silent}", "server", "says nothing"),
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


def test_a_program_that_does_not_run_is_a_warning(rig: Any, ask: Ask) -> None:
    code, found = ask(rig.configure(), "--no-server")
    assert (code, found["program"]["level"]) == (0, "warn")
    assert "systemctl start" in found["program"]["remedy"]

"""The example of a cluster of two machines, with addresses that are open: TLS, the token, one command each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[3]
RAY = Path(sys.executable).with_name("ray")
HEAD, OTHER = "10.77.88.1", "10.77.88.2"
PATIENCE_S = 90.0

pytestmark = [pytest.mark.system, pytest.mark.cluster]


@pytest.fixture
def inside() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a program in a network that only this test is in, where both addresses are this machine's."""
    name = f"split-ray-{os.getpid()}"
    for arguments in (
        ("netns", "add", name),
        ("-n", name, "link", "set", "lo", "up"),
        *(("-n", name, "address", "add", f"{one}/32", "dev", "lo") for one in (HEAD, OTHER)),
    ):
        subprocess.run(["ip", *arguments], check=True)
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short, for Ray's sockets
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: object, **environment: str) -> subprocess.Popen[bytes]:
        variables = {**os.environ, "RAY": str(RAY), "CPUS": "1", "STORE_MIB": "80", "TEMP": folder, **environment}
        text = ["ip", "netns", "exec", name, *map(str, command)]
        started.append(subprocess.Popen(text, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        return started[-1]

    yield start
    ours = [psutil.Process(one.pid) for one in started if one.poll() is None]
    ours += [child for one in ours for child in one.children(recursive=True)]
    for process in reversed(started):
        process.terminate()
    for process in psutil.wait_procs(ours, timeout=10.0)[1]:
        process.kill()
    for process in started:
        process.communicate()
    subprocess.run(["ip", "netns", "delete", name], check=True)
    shutil.rmtree(folder, ignore_errors=True)


def test_two_machines_one_command_each_and_no_stranger(inside, tmp_path, config_file, model):
    keys = tmp_path / "keys"
    subprocess.run([ROOT / "deploy/ray/make-keys.sh", keys, HEAD, OTHER], check=True, capture_output=True)
    names = {
        "certificate": "certificate.pem",
        "private_key": "private.key",
        "authority": "authority.pem",
        "token": "token",
    }
    engine = {"kind": "ray", "address": f"{HEAD}:6379", "node_files": str(tmp_path / "tails")}
    engine |= {key: str(keys / HEAD / name) for key, name in names.items()}
    config = config_file(tmp_path, model, engine=engine)
    server = [sys.executable, "-m", "cloud_server"]
    subprocess.run([*server, "keys", "make", "-c", config], check=True, capture_output=True)

    inside(ROOT / "deploy/ray/start-node.sh", "head", HEAD, keys / HEAD)
    stranger = {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(keys / HEAD / "certificate.pem"),
        "RAY_TLS_SERVER_KEY": str(keys / HEAD / "private.key"),
        "RAY_TLS_CA_CERT": str(keys / HEAD / "authority.pem"),
    }
    until(lambda: asked(inside, stranger) == os.EX_NOPERM)  # it is up, and lets nobody in who has no token
    inside(ROOT / "deploy/ray/start-node.sh", "join", OTHER, HEAD, keys / OTHER, ANY_PORTS="1")
    gateway = inside(*server, "run", "-c", config)

    def status() -> dict[str, object]:
        done = subprocess.run(
            [*server, "status", "--json", "-c", config], capture_output=True, text=True, check=False
        )
        return json.loads(done.stdout)

    until(lambda: (status().get("engine"), status().get("threads"), status().get("nodes")) == ("ray", 2, 2))
    gateway.terminate()
    assert gateway.wait(PATIENCE_S) == 0


def test_a_gateway_whose_node_dies_is_not_alive_for_its_watchdog(start, tmp_path):
    server = start(engine={"kind": "ray", "object_store_mib": 80, "node_files": str(tmp_path / "tails")})
    children = psutil.Process(server.process.pid).children(recursive=True)
    for process in children:
        if process.name() == "raylet":
            process.kill()
    until(lambda: "stuck: this machine's Ray node" in server.log())
    server.process.kill()
    server.process.wait()
    for process in psutil.wait_procs(children, timeout=10.0)[1]:
        process.kill()


def asked(inside: Callable[..., subprocess.Popen[bytes]], environment: dict[str, str]) -> int:
    return inside(sys.executable, "-m", "cloud_server.engines.ray_stranger", f"{HEAD}:6379", **environment).wait(
        PATIENCE_S
    )


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.2)

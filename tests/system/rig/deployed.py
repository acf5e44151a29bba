"""A board and a server with our programs deployed, once for all tests: what one command each has made of them."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.system.rig.bundles import tiny_bundle
from tests.system.rig.machine import Machine, remove
from tests.system.rig.network import Network, run
from tests.system.rig.workstation import Workstation

Told = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Deployed:
    """The two machines as layers, what the commands printed, and what was found in the machines afterwards."""

    bundle: Path
    board: Path
    server: Path
    told_server: Told
    told_board: Told
    board_status: dict[str, Any]
    server_status: dict[str, Any]
    devices: dict[str, str]
    private_key_at: str


def deploy_once(cache: Path, rootfs: Path, bundles: Path) -> Deployed:
    """Boot two fresh machines, run the two deploy commands on them, look at them, and keep them as layers."""
    bundle = tiny_bundle(bundles)
    layers = {name: cache / f"deployed-{name}" for name in ("board", "hall")}
    for layer in layers.values():
        run("rm", "-rf", "--one-file-system", layer)
    with Network() as network:
        wire = network.join()
        proxy = " ".join(network.in_cloud(["socat", "-", "TCP:%h:%p"]))
        places = (("board", wire.edge, wire.board_address), ("hall", wire.cloud, wire.cloud_address))
        board, hall = (
            Machine(
                name, layers=[rootfs], folder=cache / "machines", namespace=namespace, address=address, proxy=proxy
            )
            for name, namespace, address in places
        )
        try:
            board.make().boot()
            hall.make().boot()
            desk = Workstation(bundles / "desk", [board, hall])
            told_server = desk.deploy_server("hall", "--bundle", bundle)
            told_board = desk.deploy(
                "board", "--bundle", bundle, "--server", "hall", "--whole-input-budget", "unlimited"
            )
            board.until(lambda: hosted(board), "the server does not take it")
            ask(board)
            board.until(lambda: board_status(board)["counters"]["local"], "the frame was not counted")
            said = board_status(board), server_status(hall), devices(hall)
            key_at = board.run("stat -c '%a %U %n' /etc/edge-runtime/device.key").stdout.strip()
            board.layer(layers["board"])
            hall.layer(layers["hall"])
        finally:
            for machine in (board, hall):
                machine.kill()
                remove(machine.folder)
    return Deployed(bundle, layers["board"], layers["hall"], told_server, told_board, *said, key_at)


def board_status(board: Machine) -> dict[str, Any]:
    """What ``edge-runtime status`` tells, as the board's user asks."""
    found: dict[str, Any] = json.loads(board.run("edge-runtime status --json", check=False).stdout or "{}")
    return found


_ASK = """
import sys, time
import numpy as np
from edge_runtime.client import Client
rest_s = float(sys.argv[1])
with Client("/run/edge-runtime/frames.sock") as client:
    while True:
        answer = client.ask(np.full((8, 8, 3), 99, np.uint8), timeout_s=20)
        print(time.monotonic(), answer.outcome, flush=True)
        if not rest_s:
            break
        time.sleep(rest_s)
"""
PYTHON = "/opt/edge-runtime/current/venv/bin/python"


def ask(board: Machine) -> str:
    """Hand the device program a picture, as another program on the board would, and say how it was answered."""
    # Python of the release itself: a switch while it imports would mix two releases.
    python = '"$(readlink -f /opt/edge-runtime/current)"/venv/bin/python'
    return board.run(f"{python} - 0 <<'END'\n{_ASK}\nEND").stdout.split()[1]


class Asking:
    """A program on the board that asks ten times a second; use it in a ``with``."""

    def __init__(self, board: Machine) -> None:
        self._command = board.inside([PYTHON, "-c", _ASK, "0.1"])

    def __enter__(self) -> Asking:  # noqa: PYI034  Self needs Python 3.11
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stdout is not None
        self._first = self._process.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = self._process.poll()
        os.killpg(self._process.pid, signal.SIGKILL)  # nsenter, and the program that it waits for
        said, self.complaint = self._process.communicate()
        self.answered_s = [float(line.split()[0]) for line in [self._first, *said.splitlines()[:-1]]]

    @property
    def longest_wait_s(self) -> float:
        """Between two answers."""
        return max(later - earlier for earlier, later in itertools.pairwise(self.answered_s))


def hosted(board: Machine) -> bool:
    """Whether it is connected to a server that has its bundle."""
    link = board_status(board).get("link") or {}
    return bool(link.get("up") and link.get("hosted"))


def server_status(server: Machine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        server.run("cloud-server status -c /etc/cloud-server/config.toml --json", check=False).stdout or "{}"
    )
    return found


def devices(server: Machine) -> dict[str, str]:
    """Who may connect: key by name."""
    shown = server.run("cloud-server devices list -c /etc/cloud-server/config.toml --json").stdout
    return {entry["name"]: entry["public_key"] for entry in json.loads(shown)}

"""Sources and sinks in the hardened service: a serial port by its group, sockets for those in the client group."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.rig import Machine, Network
from tests.system.rig.model import make_bundle
from tests.system.rig.service import Service, copy_in, device_service

VALUES = 512
PYTHON = "/opt/edge-runtime/current/venv/bin/python"
FLOW = """
[[source]]
kind = "socket"
group = "edge-clients"

[[source]]
kind = "serial"
port = "/run/mcu"
baud = 921600
policy = "all"

[[source]]
kind = "watch"
path = "/srv/incoming"

[[sink]]
path = "/var/lib/edge-runtime/answers.jsonl"

[[sink]]
kind = "pub"
group = "edge-clients"

[[sink]]
kind = "serial"
port = "/run/mcu"
baud = 921600
"""
ASK = f"""
import numpy as np
from edge_runtime.client import Client
with Client(timeout_s=5) as client:
    answer = client.ask(np.ones({VALUES}, np.float32), name="asked")
    print(answer.outcome, answer.outputs[0].shape)
"""
LISTEN = """
from edge_runtime.client import subscribe
record, outputs = next(iter(subscribe(topic="frame.serial", timeout_s=10)))
print(record["source"], outputs[0].shape)
"""


@pytest.fixture
def device(rootfs: Path, product: Path, tmp_path: Path) -> Iterator[Service]:
    """A board with the device program, from the units of a deployment; there is no server."""
    make_bundle(tmp_path, values=VALUES)
    with Network() as network:
        wire = network.join()
        board = Machine(
            "board", layers=(product, rootfs), folder=rootfs.parent / "machines", namespace=wire.edge,
            address=wire.board_address, proxy="none",
        )  # fmt: skip
        try:
            board.make()
            board.boot()
            made = device_service(board, tmp_path, server=wire.cloud_address, server_key="a" * 40)
            copy_in(board, Path(__file__).with_name("microcontroller.py"), "/opt/microcontroller.py")
            copy_in(board, tmp_path / "frames.npz", "/srv/frames.npz")
            board.put("/opt/ask.py", ASK)
            board.put("/opt/listen.py", LISTEN)
            board.run("mkdir -m 755 /srv/incoming")
            made.install(key="device")
            del made.tables["source"], made.tables["sink"]
            made.configure()
            board.put("/etc/edge-runtime/conf.d/flow.toml", FLOW)
            yield made
        finally:
            board.close()


def test_the_service_serves_who_it_should(device: Service) -> None:
    board = device.machine
    board.run(f"systemd-run --unit=mcu {PYTHON} /opt/microcontroller.py {VALUES}")
    board.until(lambda: board.run("test -e /run/mcu", check=False).returncode == 0, "the line")
    device.start()

    def counted(what: str, name: str) -> Any:
        return device.status().get(what, {}).get(name, {})

    # The line: both ways, by the group dialout.
    board.until(lambda: counted("sources", "serial").get("packets", 0) >= 5, device.log())
    board.until(lambda: counted("sinks", "serial").get("written", 0) >= 5, device.log())
    answers = board.run("cat /run/mcu.answers").stdout.split()
    assert len(answers) >= 4
    assert [answer for answer in answers[:-1] if not re.fullmatch(r"\$A,\d+,local,.*\*[0-9A-F]{2}", answer)] == []

    # The sockets: for members of the group, and for nobody else.
    for name in ("frames", "answers"):
        assert board.run(f"stat -c '%a %G' /run/edge-runtime/{name}.sock").stdout == "660 edge-clients\n"
    for program in ("ask", "listen"):
        denied = board.run(f"runuser -u pi -- {PYTHON} /opt/{program}.py", check=False)
        assert denied.returncode != 0, denied.stdout
        assert "permission denied; join the group of the socket (edge-clients?)" in denied.stderr
    board.run("usermod -aG edge-clients pi")
    assert board.run(f"runuser -u pi -- {PYTHON} /opt/ask.py").stdout == "local (1, 10)\n"
    assert board.run(f"runuser -u pi -- {PYTHON} /opt/listen.py").stdout == "serial (1, 10)\n"

    # The folder: across a stop and a start, each row once.
    board.run("cp /srv/frames.npz /srv/incoming/.new && mv /srv/incoming/.new /srv/incoming/frames.npz")
    board.until(lambda: counted("sources", "watch").get("files") == 1, device.log())
    rows = board.run('grep -c \'"source":"watch"\' /var/lib/edge-runtime/answers.jsonl').stdout
    board.run("systemctl restart edge-runtime")
    board.until(lambda: counted("sources", "serial").get("packets", 0) >= 5, device.log())
    assert board.run('grep -c \'"source":"watch"\' /var/lib/edge-runtime/answers.jsonl').stdout == rows

    # A line that is unplugged and comes back.
    board.run("systemctl stop mcu; rm -f /run/mcu")
    board.until(lambda: "waiting for it" in device.log(), device.log())
    board.run(f"systemd-run --unit=mcu2 {PYTHON} /opt/microcontroller.py {VALUES}")
    board.until(lambda: counted("sources", "serial").get("reconnects") == 1, device.log())

    board.run("systemctl stop edge-runtime")
    assert device.show("Result") == "success"
    assert "Traceback" not in device.log()
    done = [line for line in device.log().splitlines() if "done: " in line][-1].split("done: ")[1]
    pairs = (pair.split("=") for pair in done.split())
    count = defaultdict(float, {key: float(value) for key, value in pairs})  # those of zero are left out
    ends = ("offloaded", "local", "fallback", "failed", "dropped")
    assert count["frames_in"] == sum(count[end] for end in ends)
    assert count["failed"] == 0

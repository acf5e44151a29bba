"""A server given by its name: with an IPv6 address alone, with both, and with one that leads nowhere."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.link.families import Families

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives names to addresses, which needs root")


@pytest.fixture
def under_names(rig: Any, tmp_path: Path) -> Callable[..., Any]:
    """Starts a program of ours that finds these names in its /etc/hosts, and no others."""
    hosts = tmp_path / "hosts"
    hosts.write_text("::1 six.test\n::1 both.test\n127.0.0.1 both.test\n127.0.0.1 four.test\n")

    def command(*words: str) -> list[str]:
        inner = f'mount --bind {hosts} /etc/hosts && exec "$@"'
        program = [sys.executable, "-W", "error", "-m", "edge_runtime", *words]
        return ["unshare", "--mount", "sh", "-ec", inner, "sh", *program]

    return command


@pytest.fixture
def connected(rig: Any, under_names: Any) -> Callable[..., Any]:
    """Starts a device whose server has a name, and waits for what comes back from there."""

    def start(server: Any, name: str) -> Any:
        config = rig.configure(server, server_address=f"tcp://{name}:{server.port}", device_state="state")
        server.allow("device", config.with_name("device.pub").read_bytes().strip())
        log = config.with_name("log")
        with log.open("wb") as errors:
            command = under_names("run", "-c", str(config))
            popen = subprocess.Popen(command, stderr=errors, stdout=subprocess.DEVNULL)
        device = rig.watch(config, popen, log)
        answers = config.with_name("answers.jsonl")
        device.until(lambda: answers.exists() and '"outcome":"offloaded"' in answers.read_text(), "an answer")
        return config

    return start


@contextlib.contextmanager
def swallowing(port: int) -> Iterator[None]:
    """At ::1, connections to a port are neither taken nor refused, as behind a broken tunnel."""
    with contextlib.ExitStack() as closing:
        listening = closing.enter_context(socket.socket(socket.AF_INET6))
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("::1", port))
        listening.listen(0)
        for _ in range(4):
            waiting = closing.enter_context(socket.socket(socket.AF_INET6))
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(("::1", port))
        yield


def test_a_name_with_an_ipv6_address_alone(rig: Any, connected: Any, under_names: Any) -> None:
    config = connected(rig.server(address="tcp://[::1]:0"), "six.test")
    doctor = subprocess.run(under_names("doctor", "-c", str(config)), capture_output=True, text=True, check=False)
    assert "accepts this device" in doctor.stdout


@pytest.mark.parametrize("name", ["both.test", "four.test"])
def test_a_name_of_both_families_and_a_server_on_ipv4_alone(rig: Any, connected: Any, name: str) -> None:
    connected(rig.server(), name)


def test_a_name_of_both_families_of_which_the_first_leads_nowhere(
    rig: Any, connected: Any, under_names: Any
) -> None:
    server = rig.server()
    with swallowing(server.port):
        config = connected(server, "both.test")
        command = under_names("doctor", "-c", str(config))
        doctor = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "accepts this device" in doctor.stdout


def test_numbers_have_one_family_and_names_are_tried_with_both() -> None:
    assert not Families("tcp://127.0.0.1:5555").ipv6
    assert Families("tcp://[::1]:5555").ipv6
    assert not Families("tcp://[::1]:5555").failed()
    name = Families("tcp://hall.example:5555")
    tried = [name.ipv6]
    for _ in range(8):
        name.failed()
        tried.append(name.ipv6)
    assert tried[:2] == [True, False]
    assert 3 <= sum(tried) <= 6
    name.connected()
    family = name.ipv6
    assert name.failed()
    assert name.ipv6 is not family

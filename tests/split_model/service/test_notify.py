"""What systemd hears, over a real socket like its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from split_model.service.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@split-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        made.settimeout(10)
        yield made, name


def test_a_service_tells_its_manager_what_it_does(manager: tuple[socket.socket, str]) -> None:
    systemd, address = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000"})
    assert notifier.watchdog_s == 3.0
    told = []
    for tell in (
        lambda: notifier.starting("measuring", within_s=60),
        lambda: notifier.ready("here\nREADY=0"),  # what is in a status can forge no other assignment
        notifier.alive,
        lambda: notifier.reloading("again"),
        lambda: notifier.stopping("bye"),
    ):
        tell()
        told.append(systemd.recv(4096).decode().splitlines())
    assert told[0] == ["EXTEND_TIMEOUT_USEC=60000000", "STATUS=measuring"]
    assert told[1] == ["READY=1", "STATUS=here READY=0"]
    assert told[2] == ["WATCHDOG=1"]
    assert [line.split("=")[0] for line in told[3]] == ["RELOADING", "MONOTONIC_USEC", "STATUS"]
    assert told[4] == ["STOPPING=1", "STATUS=bye"]
    notifier.close()


def test_without_a_manager_nothing_happens() -> None:
    notifier = Notifier.from_environment({})
    notifier.ready("")
    notifier.alive()
    assert notifier.watchdog_s is None


def test_a_manager_that_went_away_is_no_error(tmp_path: Path) -> None:
    notifier = Notifier(str(tmp_path / "gone"), watchdog_s=1.0)
    notifier.alive()
    notifier.close()
    notifier.alive()


def test_a_manager_that_does_not_listen_holds_nobody_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        notifier = Notifier(str(tmp_path / "deaf"), watchdog_s=1.0)
        for _ in range(2000):  # more than any queue of datagrams holds
            notifier.alive()
        notifier.close()


def test_a_watchdog_of_another_process_is_none_of_ours() -> None:
    environment = {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}
    assert Notifier.from_environment(environment).watchdog_s is None
    assert Notifier.from_environment(environment | {"WATCHDOG_PID": str(os.getpid())}).watchdog_s == 3.0

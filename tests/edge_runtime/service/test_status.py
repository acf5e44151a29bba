"""What ``status`` shows people: 80 columns, no zeros, and of a program that has ended only what still holds."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from typing import Any

import pytest

from edge_runtime.service.status import BoardStatus, BundleStatus, LinkStatus, Status, for_terminal

LINK = LinkStatus(
    address="tcp://hall.example:5555", up=True, hosted=True, trouble="", uplink_mbit_s=35.2, rtt_s=0.0021,
    queue_s=0.0, reconnects=0,
)  # fmt: skip


def status(**changes: Any) -> Status:
    found: dict[str, Any] = {
        "state": "running",
        "pid": 812,
        "process_ticks": 1,
        "written_boot_s": 0.0,
        "written_unix_s": 0.0,
        "uptime_s": 150.0,
        "software": "edge-runtime 0.1.0",
        "config": "/etc/edge-runtime/config.toml",
        "bundle": BundleStatus(name="fashion_f32", identity="6f1cea1b88e0" * 4, folder="/opt/" + "very-long/" * 9),
        "split": 15,
        "local": 15,
        "counters": {"frames_in": 1234.0, "offloaded": 0.0, "local": 1233.0, "fallback": 0.0, "failed": 1.0},
        "links": [LINK],
        "board": BoardStatus(
            load=1.0, cpu_load=0.25, temperature_c=None, throttled=None, memory_available_bytes=None,
            rss_bytes=44_000_000,
        ),
        "sources": {"door": {"frames": 214, "dropped": 0}, "yard": {"frames": 0}},
        "privacy": "a whole frame is NOT hidden: whole-input epsilon 1,024 a frame, per-value epsilon 16 at most",
        "why_local_text": "0.24 ms here, 1 ms by cut 5, the best one (predicted)",
    }  # fmt: skip
    return Status(**(found | changes))


def shown(found: Status, condition: str = "running", width: int | None = 80) -> str:
    return for_terminal(found, condition, age_s=1.0, start="edge-runtime run -c x", width=width)


def test_it_fits_80_columns_but_for_what_is_to_be_copied() -> None:
    long = [line for line in shown(status()).splitlines() if len(line) > 80]
    assert [line.strip() for line in long] == ["/opt/" + "very-long/" * 9]
    assert "\n".join(shown(status(), width=None).split()) == "\n".join(shown(status()).split())


def test_zeros_are_left_out_and_one_is_no_plural() -> None:
    text = shown(status(under_way=1))
    assert "frames    1,234: 1,233 local, 1 failed, 1 under way" in text
    assert "source    door: 214 frames\n          yard: nothing so far" in text
    assert "reconnect" not in text
    assert "1 reconnect" in shown(status(links=[LINK.__class__(**(_fields(LINK) | {"reconnects": 1}))]))


def _fields(of: Any) -> dict[str, Any]:
    return {name: getattr(of, name) for name in of.__struct_fields__}


@pytest.mark.parametrize("condition", ["stopped", "dead"])
def test_of_a_program_that_has_ended_nothing_is_told_that_is_over(condition: str) -> None:
    text = shown(status(state="stopped", ledger_trouble="the ledger is closed"), condition)
    assert text.startswith(condition)
    assert "frames    1,234" in text
    assert not any(line.startswith(("link", "board", "ledger")) for line in text.splitlines())
    assert text.splitlines()[-1] == "start     edge-runtime run -c x"


def test_a_ledger_that_fails_is_told_of_a_program_that_runs() -> None:
    assert "ledger    the disk is full; nothing leaves" in shown(status(ledger_trouble="the disk is full"))


def test_commands_fold_on_a_terminal_and_not_in_a_pipe(rig: Any, command: Any) -> None:
    """At 80 columns it has the same findings as in a pipe; the greeting of TFLite is in neither."""
    config = rig.configure(planner_split="auto")
    plain = command("edge_runtime", "doctor", "--no-server", "-c", config)
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "JOURNAL_STREAM"} | {"COLUMNS": "80"}
    with subprocess.Popen(
        [sys.executable, "-m", "edge_runtime", "doctor", "--no-server", "-c", str(config)],
        stdout=theirs, stderr=theirs, env=environment,
    ) as popen:  # fmt: skip
        os.close(theirs)
        told = b""
        with contextlib.suppress(OSError):  # its other end is closed
            while True:
                told += os.read(ours, 65536)
        assert popen.wait(30) == plain.returncode
    os.close(ours)
    lines = told.decode().replace("\r\n", "\n").splitlines()
    assert max(len(line) for line in lines if "/" not in line) <= 80
    abouts = [line.split()[1] for line in lines if line.startswith(("ok", "WARN", "FAIL"))]
    assert abouts == [line.split()[1] for line in plain.stdout.splitlines() if line[0] != " "]
    assert "XNNPACK" not in told.decode() + plain.stdout + plain.stderr

"""`edge-runtime bench` as its users run it: board only, with a server, with a power meter, with faults."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

Command = Callable[..., Any]
RUNS = ("--runs", "3")


def bench(command: Command, config: Any, *more: str) -> dict[str, Any]:
    done = command("edge_runtime", "bench", "-c", config, *RUNS, "--json", *more)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@contextmanager
def meter(line: bytes) -> Iterator[str]:
    """A power meter on a pseudo-terminal, fifty lines a second."""
    near, far = os.openpty()
    stop = threading.Event()

    def talk() -> None:
        while not stop.wait(0.02):
            os.write(near, line)

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        yield os.ttyname(far)
    finally:
        stop.set()
        talker.join()
        os.close(near)
        os.close(far)


def test_the_board_alone(rig: Any, command: Command) -> None:
    config = rig.configure(emulation_slowdown=1.0, device_state="own")
    report = bench(command, config, "--no-link")
    offered = [cut.index for cut in rig.parts.bundle.manifest.cuts]
    assert [cut["split"] for cut in report["cuts"]] == [*offered, rig.parts.bundle.local]
    for cut in report["cuts"]:
        assert cut["head"]["p50_s"] <= cut["head"]["p90_s"] <= cut["head"]["p95_s"]
        assert cut["runs"] == 3
    assert report["link"] is None
    assert report["recommendation"]["ranges"][0]["from_mbit_s"] == 0.0
    assert report["recommendation"]["here"] is None
    assert len(report["recommendation"]["assumed"]) == 2


def test_the_daemon_uses_what_it_measured(rig: Any, command: Command) -> None:
    config = rig.configure(source_repeat=1, device_state="own")
    report = bench(command, config, "--no-link", "--runs", "41")  # so many that p95 is not the slowest run
    (kept,) = (config.parent / "own").glob("profile-*.json")
    profile = json.loads(kept.read_text())
    assert [s["head_s"] for s in profile["splits"]] == [cut["head"]["p50_s"] for cut in report["cuts"]]
    assert [s["head_p95_s"] for s in profile["splits"]] == [cut["head"]["p95_s"] for cut in report["cuts"]]
    assert report["cuts"][-1]["head"]["p95_s"] < report["cuts"][-1]["head"]["p99_s"]
    before = kept.read_bytes()
    device = rig.device(source_repeat=1, device_state="own")
    assert device.ended() == 0
    assert "measuring" not in device.log()
    assert kept.read_bytes() == before


def test_with_a_server_link_and_tails_are_measured(rig: Any, command: Command) -> None:
    server = rig.server()
    config = rig.configure(server, device_state="own")
    server.allow("device", (config.parent / "device.pub").read_bytes().strip())
    report = bench(command, config)
    assert report["link"]["reachable"]
    assert report["link"]["hosted"]
    assert report["link"]["round_trip_s"] is not None
    assert report["link"]["uplink_mbit_s"] > 0
    assert all(cut["tail_s"] is not None for cut in report["cuts"][:-1])
    assert report["recommendation"]["assumed"] == []
    assert report["recommendation"]["here"] in [cut["split"] for cut in report["cuts"]]


def test_a_server_that_is_away_is_told(rig: Any, command: Command, monkeypatch: Any) -> None:
    config = rig.configure(device_state="own")
    report = bench(command, config)
    assert not report["link"]["reachable"]
    assert report["link"]["trouble"]
    done = command("edge_runtime", "bench", "-c", config, *RUNS, "--server")
    assert done.returncode == os.EX_UNAVAILABLE
    assert "best split by uplink" in done.stdout
    assert done.stderr.strip().splitlines()[-1].startswith("edge-runtime: ")


@pytest.mark.parametrize("slowdown", [1.0, 400.0])
def test_the_table_fits_eighty_columns(rig: Any, command: Command, slowdown: float) -> None:
    config = rig.configure(emulation_slowdown=slowdown, planner_earliest_cut=1, device_state="own")
    with meter(b"3.5 W\r\n") as device:
        done = command("edge_runtime", "bench", "-c", config, "--runs", "1", "--no-link", "--power-meter", device)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert ("EMULATED" in done.stdout) == (slowdown > 1)
    assert "never used" in done.stdout
    assert "idle 3.50 W" in done.stdout


def test_joules_a_frame(rig: Any, command: Command) -> None:
    config = rig.configure(emulation_slowdown=1.0, device_state="own")
    with meter(b"2.0 W\n") as device:
        report = bench(command, config, "--no-link", "--power-meter", device)
    assert report["idle_watts"] == pytest.approx(2.0)
    for cut in report["cuts"]:
        assert 0 < cut["joules_per_frame"] < 2.0
        assert cut["joules_over_idle"] == pytest.approx(0.0, abs=1e-3)
    local = report["cuts"][-1]
    # What a frame takes is no less than the time it computes, at 2 W.
    assert local["joules_per_frame"] >= 0.5 * local["head"]["p50_s"] * 2.0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--runs", "0"), os.EX_USAGE),
        (("--runs", "many"), os.EX_USAGE),
        (("--server", "--no-link"), os.EX_USAGE),
        (("--no-link", "--power-meter", "/dev/no-such-meter"), os.EX_NOINPUT),
    ],
)
def test_faults_are_one_line(rig: Any, command: Command, arguments: tuple[str, ...], code: int) -> None:
    done = command("edge_runtime", "bench", "-c", rig.configure(device_state="own"), *arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_without_a_key_the_board_is_measured_all_the_same(rig: Any, command: Command) -> None:
    """A user who may not read the key, or a board that has none yet."""
    config = rig.configure(device_state="own")
    (config.parent / "device.key").unlink()
    report = bench(command, config)
    assert report["cuts"]
    assert (report["link"]["reachable"], "device.key" in report["link"]["trouble"]) == (False, True)
    assert report["link"]["trouble"].startswith("not measured: ")
    done = command("edge_runtime", "bench", "-c", config, *RUNS, "--server")
    assert (done.returncode, done.stdout) == (os.EX_NOINPUT, "")  # told before anything is measured
    assert bench(command, config, "--no-link")["link"] is None

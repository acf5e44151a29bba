"""The running program as systemd and people see it: real processes, and a socket like systemd's."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOREVER = {"source_repeat": 0, "source_interval_s": 0.02}


class Systemd(threading.Thread):
    """Hears what services say."""

    def __init__(self, made: socket.socket) -> None:
        super().__init__(daemon=True)
        self.told: list[str] = []
        self.ended = False
        self._socket = made

    def run(self) -> None:
        while not self.ended:
            with contextlib.suppress(TimeoutError):
                self.told += self._socket.recv(4096).decode().splitlines()

    def until(self, line: str, within_s: float = 30.0) -> None:
        until_s = time.monotonic() + within_s
        while line not in self.told:
            assert time.monotonic() < until_s, f"{line}: {self.told[-5:]}"
            time.sleep(0.02)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(0.1)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "800000")
        heard = Systemd(made)
        heard.start()
        yield heard
        heard.ended = True
        heard.join()


@pytest.fixture
def status(command: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    def ask(device: Any) -> dict[str, Any]:
        done = command("edge_runtime", "status", "--json", "-c", device.config)
        return json.loads(done.stdout) | {"code": done.returncode} if done.stdout else {"code": done.returncode}

    return ask


def test_it_is_ready_without_a_server_and_feeds_the_watchdog(rig: Any, systemd: Systemd) -> None:
    device = rig.device(**FOREVER)
    systemd.until("READY=1")
    device.until(device.records, "a frame answered here")
    systemd.told.clear()
    systemd.until("WATCHDOG=1")
    assert device.stop() == os.EX_OK
    systemd.until("STOPPING=1")


def test_idle_for_longer_than_the_watchdog_is_fine(rig: Any, systemd: Systemd) -> None:
    device = rig.device(source_repeat=0, source_interval_s=60.0)
    systemd.until("READY=1")
    device.until(device.records, "the first frame")
    time.sleep(2.0)  # more than the watchdog, and its patience
    systemd.told.clear()
    systemd.until("WATCHDOG=1", within_s=2.0)


def test_what_cannot_start_is_never_ready(rig: Any, systemd: Systemd) -> None:
    device = rig.device(device_bundle="/nowhere")
    assert device.ended() == os.EX_NOINPUT
    systemd.until("STOPPING=1")
    assert "READY=1" not in systemd.told


def test_status_of_a_running_program(rig: Any, status: Callable[..., dict[str, Any]], command: Any) -> None:
    server = rig.server()
    device = rig.device(server, **FOREVER)
    device.wait_more("offloaded")
    found = device.until(lambda: (s := status(device)).get("split") == 2 and s, "the split in the status")
    assert (found["code"], found["condition"], found["pid"]) == (0, "running", device.popen.pid)
    assert (found["link"]["up"], found["link"]["hosted"]) == (True, True)
    assert found["counters"]["frames_in"] >= found["counters"]["offloaded"] > 0
    assert found["bundle"]["identity"] == rig.parts.bundle.identity
    assert found["ledger"]["spent"]["releases"] > 0
    assert found["latency"]["frames"] > 0
    text = command("edge_runtime", "status", "-c", device.config).stdout
    assert text.startswith(f"running   pid {device.popen.pid}")
    assert "split     cut 2" in text
    assert "whole-input epsilon" in text
    device.stop()
    found = status(device)
    assert (found["code"], found["condition"]) == (os.EX_UNAVAILABLE, "stopped")


def test_status_tells_dead_from_never_started(
    rig: Any, status: Callable[..., dict[str, Any]], command: Any
) -> None:
    device = rig.device(**FOREVER)
    device.until(lambda: status(device)["code"] == 0, "running")
    device.popen.send_signal(signal.SIGKILL)
    device.popen.wait()
    assert (status(device)["code"], status(device)["condition"]) == (os.EX_UNAVAILABLE, "dead")
    other = rig.configure(name="other")
    done = command("edge_runtime", "status", "-c", other)
    assert (done.returncode, done.stdout.split()[0]) == (os.EX_UNAVAILABLE, "stopped")
    assert f"nothing runs with {other}" in done.stdout
    done = command("edge_runtime", "status", "--json", "-c", other)
    assert (done.returncode, json.loads(done.stdout)) == (os.EX_UNAVAILABLE, {"condition": "stopped"})
    done = command("edge_runtime", "status", "-c", other.with_name("mistyped.toml"))
    assert (done.returncode, done.stdout) == (os.EX_NOINPUT, "")
    assert "mistyped.toml: No such file" in done.stderr


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_a_sighup_takes_up_the_config_and_no_frame_is_lost(
    rig: Any, systemd: Systemd, status: Callable[..., dict[str, Any]], objective: str
) -> None:
    server = rig.server()
    loop = {"planner_objective": objective} | FOREVER
    device = rig.device(server, planner_split="local", **loop)
    device.wait_more("local")
    rig.configure(server, planner_split=2, **loop)
    device.popen.send_signal(signal.SIGHUP)
    systemd.until("RELOADING=1")
    device.wait_more("offloaded", 5)
    found = device.until(
        lambda: (s := status(device))["reloads"] == 1 and s["condition"] == "running" and s, "done"
    )
    assert found["reload_error"] == ""
    assert device.stop() == os.EX_OK
    counters = device.counters()
    indices = [record["index"] for record in device.records()]
    assert sorted(indices) == list(range(len(indices)))  # every frame once, before and after
    assert objective == "throughput" or indices == sorted(indices)
    assert counters["frames_in"] == len(indices) == counters["offloaded"] + counters["local"] + counters["fallback"]
    assert counters["failed"] == 0


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"planner_splitt": "local"}, "did you mean 'split'"),
        ({"planner_split": 999}, "planner.split = 999"),
        ({"device_bundle": "/nowhere"}, "/nowhere"),
        ({"source_path": "/nowhere"}, "/nowhere"),
        ({"device_state": "elsewhere"}, "device.state cannot change while the program runs"),
    ],
)
def test_a_bad_config_leaves_the_old_one_in_force(
    rig: Any, status: Callable[..., dict[str, Any]], changes: dict[str, Any], why: str
) -> None:
    device = rig.device(planner_split="local", **FOREVER)
    device.wait_more("local")
    rig.configure(**({"planner_split": "local"} | FOREVER | changes))
    device.popen.send_signal(signal.SIGHUP)
    device.until(lambda: "reload refused" in device.log(), "refusal")
    assert why in device.log()
    device.wait_more("local")
    rig.configure(planner_split="local", **FOREVER)
    assert why in status(device)["reload_error"]
    assert device.stop() == os.EX_OK


def flow(rig: Any, *sources: tuple[str, Path], sinks: list[str]) -> dict[str, Any]:
    return {
        "source": [{"kind": "watch", "name": name, "path": str(path), "poll_s": 0.05, "settle_s": 0.0}
                   for name, path in sources],
        "sink": [{"name": name, "path": f"{name}.jsonl"} for name in sinks],
    }  # fmt: skip


def test_a_reload_takes_up_other_sources_and_sinks(
    rig: Any, status: Callable[..., dict[str, Any]], command: Any
) -> None:
    """What stays goes on, what goes is closed, what comes is opened; a source of files among them."""
    folders = {name: rig.folder / name for name in ("stays", "goes", "comes")}
    for folder in folders.values():
        folder.mkdir()
    first = flow(rig, ("stays", folders["stays"]), ("goes", folders["goes"]), sinks=["answers", "old"])
    config = rig.configure(planner_split="local", tables=first)
    device = rig.device(planner_split="local", tables=first)

    def put(where: str, name: str) -> None:
        shutil.copy(rig.parts.arrays, folders[where] / f".{name}")
        (folders[where] / f".{name}").rename(folders[where] / f"{name}.npz")

    def seen(sink: str) -> set[tuple[str, str]]:
        path = config.parent / f"{sink}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return {(record["source"], record["name"].split("[")[0]) for record in map(json.loads, lines)}

    put("stays", "one")
    put("goes", "one")
    device.until(lambda: seen("answers") == seen("old") == {("stays", "one.npz"), ("goes", "one.npz")}, "both")
    second = flow(rig, ("stays", folders["stays"]), ("comes", folders["comes"]), sinks=["answers", "new"])
    rig.configure(planner_split="local", tables=second)
    assert command("edge_runtime", "config", "check", "--reload", "-c", config).returncode == 0
    device.popen.send_signal(signal.SIGHUP)
    found = device.until(lambda: (s := status(device))["reloads"] == 1 and s, "the reload")
    assert found["reload_error"] == ""
    put("goes", "two")
    put("stays", "two")
    put("comes", "two")
    device.until(lambda: seen("new") >= {("stays", "two.npz"), ("comes", "two.npz")}, "those that are named now")
    found = device.until(lambda: (s := status(device))["sources"].keys() == {"stays", "comes"} and s, "the sources")
    rows = len(np.load(rig.parts.arrays)["inputs"])
    found = device.until(lambda: (s := status(device))["sources"]["comes"]["frames"] == rows and s, "all rows")
    device.until(lambda: status(device)["sources"]["stays"]["frames"] == 2 * rows, "it went on counting")
    assert set(found["sinks"]) <= {"answers", "new"}
    assert ("goes", "two.npz") not in seen("answers")
    assert {source for source, _ in seen("old")} == {"stays", "goes"}
    assert ("comes", "two.npz") in seen("answers")
    assert device.stop() == os.EX_OK
    counters = device.counters()
    assert counters["frames_in"] == counters["local"] + counters["dropped"]


def test_a_source_of_files_that_is_read_by_itself_makes_room_for_another(
    rig: Any, status: Callable[..., dict[str, Any]]
) -> None:
    """Alone it needs no thread of its own; beside another one it goes on where it was, and nothing comes twice."""
    incoming = rig.folder / "incoming"
    incoming.mkdir()
    files = {"kind": "files", "path": str(rig.parts.arrays), "repeat": 1000}
    rig.configure(planner_split="local", tables={"source": files})
    device = rig.device(planner_split="local", tables={"source": files})
    device.wait_more("local", 5)
    watch = {"kind": "watch", "path": str(incoming), "poll_s": 0.05, "settle_s": 0.0}
    rig.configure(planner_split="local", tables={"source": [files, watch]})
    device.popen.send_signal(signal.SIGHUP)
    device.until(lambda: status(device)["reloads"] == 1, "the reload")
    shutil.copy(rig.parts.arrays, incoming / ".one")
    (incoming / ".one").rename(incoming / "one.npz")
    device.until(lambda: any(record["source"] == "watch" for record in device.records()), "the second source")
    rig.configure(planner_split="local", tables={"source": watch})
    device.popen.send_signal(signal.SIGHUP)
    device.until(lambda: list(status(device)["sources"]) == ["watch"], "the first one is closed")
    assert device.stop() == os.EX_OK
    names = [record["name"] for record in device.records() if record["source"] == "files"]
    rows = 24
    assert [int(name.partition("[")[2].rstrip("]")) for name in names] == [at % rows for at in range(len(names))]


def test_what_only_a_restart_takes_up_is_refused_before_the_reload(
    rig: Any, status: Callable[..., dict[str, Any]], command: Any
) -> None:
    """As the unit's ExecReload runs it, so that 'systemctl reload' fails and says what to run."""
    device = rig.device(**FOREVER)
    device.until(lambda: status(device)["code"] == 0, "running")
    config = rig.configure(device_state="elsewhere", **FOREVER)
    done = command("edge_runtime", "config", "check", "--reload", "--without-key", "-c", config)
    assert done.returncode == os.EX_CONFIG
    assert "device.state cannot change while the program runs; run 'systemctl restart edge-runtime'" in done.stderr
    assert command("edge_runtime", "config", "check", "--without-key", "-c", config).returncode == 0
    rig.configure(**FOREVER)
    assert command("edge_runtime", "config", "check", "--reload", "--without-key", "-c", config).returncode == 0


def test_another_bundle_of_the_same_inputs_is_taken_up(rig: Any, status: Callable[..., dict[str, Any]]) -> None:
    device = rig.device(planner_split="local", **FOREVER)
    device.wait_more("local")
    before = device.records()[-1]["top"]
    other = rig.other_bundle()
    rig.configure(planner_split="local", device_bundle=str(other.root), **FOREVER)
    device.popen.send_signal(signal.SIGHUP)
    device.until(lambda: status(device)["bundle"]["identity"] == other.identity, "the other bundle")
    device.wait_more("local", 30)
    answers = {record["name"]: record["top"] for record in device.records()}
    assert before not in [answers[name] for name in answers]
    assert device.stop() == os.EX_OK
    assert not (rig.parts.state / f"profile-{other.identity[:16]}.json").exists()  # not of an idle board


def test_a_reload_keeps_the_ledger(rig: Any, status: Callable[..., dict[str, Any]]) -> None:
    server = rig.server()
    own = {"device_state": "state", "planner_split": 2}
    device = rig.device(server, **own, **FOREVER)
    device.wait_more("offloaded")
    rig.configure(server, privacy_whole_input_budget=1.0, **own, **FOREVER)
    device.popen.send_signal(signal.SIGHUP)
    device.wait_more("local", 5)  # the new budget is spent already
    found = device.until(lambda: (s := status(device))["ledger"]["lifetime"] is not None and s, "the budget")
    assert found["ledger"]["lifetime"]["left"] == 0.0
    assert found["ledger"]["spent"]["releases"] == found["counters"]["releases"]
    assert device.stop() == os.EX_OK


def test_watch_shows_it_again_and_again(rig: Any) -> None:
    device = rig.device(**FOREVER)
    command = [sys.executable, "-m", "edge_runtime", "status", "--watch", "0.2", "--json", "-c", str(device.config)]
    device.until((device.config.parent / "edge-runtime.status.json").exists, "the status file")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        seen = [json.loads(watching.stdout.readline()) for _ in range(3)]
        device.stop()
        while seen[-1]["condition"] != "stopped":
            seen.append(json.loads(watching.stdout.readline()))
        watching.send_signal(signal.SIGINT)
    assert [status["pid"] for status in seen[:3]] == [device.popen.pid] * 3
    assert seen[-1]["uptime_s"] > seen[0]["uptime_s"]


def test_a_server_takes_up_other_bundles_and_devices_hear_of_it(rig: Any) -> None:
    """The device's bundle is not hosted, then it is: no restart, and no new connection."""
    other = rig.other_bundle()
    server = rig.server(bundle=other)
    device = rig.device(server, **FOREVER)
    device.until(lambda: "does not host bundle" in device.log(), "not hosted")
    device.wait_more("local")
    text = server.config.read_text()
    server.config.write_text(text.replace(str(other.root), str(rig.parts.bundle.root)))
    server.popen.send_signal(signal.SIGHUP)
    device.wait_more("offloaded", 5)
    server.config.write_text(text.replace("threads = 1", "threads = 2"))
    server.popen.send_signal(signal.SIGHUP)
    server.until(lambda: "server.threads" in server.status()["reload_error"], "refused")
    device.wait_more("offloaded", 5)
    assert server.status()["reloads"] == 1
    assert server.stop() == 0
    device.stop()
    assert device.counters()["failed"] == 0


def test_a_config_that_no_frame_has_met_is_let_go_as_cleanly(
    rig: Any, status: Callable[..., dict[str, Any]]
) -> None:
    idle = {"planner_split": "local", "source_repeat": 0, "source_interval_s": 60.0}
    device = rig.device(**idle)
    device.until(device.records, "the first frame")
    rig.configure(**idle | {"planner_dwell_s": 1.5})
    for reloads in (1, 2):  # the first is never used at all
        device.popen.send_signal(signal.SIGHUP)
        device.until(lambda reloads=reloads: status(device)["reloads"] == reloads, "reloaded")
    assert status(device)["condition"] == "running"
    assert device.stop() == os.EX_OK
    assert device.counters()["frames_in"] == 1

"""Sources that hang or are broken, each beside a healthy one that goes on: told, opened again, and left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
HEALTHY = {"kind": "files", "name": "healthy", "repeat": 0, "interval_s": 0.05}
ENDS = ("offloaded", "local", "fallback", "failed", "dropped")
#: A camera whose driver never returns, after some pictures.
PICAMERA2 = """
import pathlib, threading, time
import numpy as np

OPENED = pathlib.Path(__file__).with_name("opened")


class Picamera2:
    def __init__(self, number):
        OPENED.open("a").write("x")
        self.left = 20

    def create_video_configuration(self, **options):
        return options

    def configure(self, options):
        pass

    def start(self):
        pass

    def capture_array(self, stream):
        self.left -= 1
        if self.left < 0:
            threading.Event().wait()
        time.sleep(0.01)
        return np.full((48, 64, 3), (200, 100, 50), np.uint8)
"""


@dataclass
class HangingFolder:
    """A folder, and where it is mounted by a file system that `hang`\\ s when it is told to."""

    folder: Path
    place: Path
    popen: subprocess.Popen[bytes]

    def hang(self) -> None:
        self.popen.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.popen.send_signal(signal.SIGCONT)


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[HangingFolder]:
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("mounts a file system of FUSE: needs root and /dev/fuse")
    folder, place = tmp_path / "behind", tmp_path / "mounted"
    folder.mkdir()
    place.mkdir()
    command = [sys.executable, str(HERE / "hanging_fs.py"), str(folder), str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as popen:
        assert popen.stdout is not None
        assert popen.stderr is not None
        if not popen.stdout.readline():
            pytest.skip(f"FUSE cannot be mounted here: {popen.stderr.read().decode()}")
        try:
            yield HangingFolder(folder, place, popen)
        finally:
            subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)
            popen.kill()  # what waits for it gets an error


@pytest.fixture
def status(command: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    def ask(device: Any) -> dict[str, Any]:
        done = command("edge_runtime", "status", "--json", "-c", device.config)
        return json.loads(done.stdout) if done.stdout else {}

    return ask


def trouble(found: dict[str, Any], name: str) -> str:
    return str(found.get("source_trouble", {}).get(name, ""))


def beside_a_healthy_one(rig: Any, server: Any, source: dict[str, Any], **more: Any) -> Any:
    """A device with a source that is or will be in trouble, and one that is well."""
    sources = [source, HEALTHY | {"path": str(rig.parts.arrays)}]
    return rig.device(server, tables={"source": sources}, device_state="state", emulation_slowdown=1.0, **more)


def healthy(device: Any) -> int:
    return sum(record["source"] == "healthy" for record in device.records())


def goes_on(device: Any) -> None:
    """Frames of the healthy source are answered now."""
    target = healthy(device) + 5
    device.until(lambda: healthy(device) >= target, "the healthy source does not go on")


def ends_well(device: Any) -> None:
    """It ends in time, by itself, and what the ledger had reserved is given back."""
    assert device.stop() == 0
    counters = device.counters()
    assert counters["frames_in"] == sum(counters[end] for end in ENDS)


def spent_is_what_left(device: Any, command: Any) -> None:
    """The ledger's spending is that of the releases made: nothing reserved was lost."""
    ledger = json.loads(command("edge_runtime", "ledger", "--json", "-c", device.config).stdout)
    assert ledger["spent"]["releases"] == device.counters()["releases"]
    assert "Traceback" not in device.log()


def test_a_camera_whose_driver_never_returns(
    rig: Any, status: Any, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "picamera2.py").write_text(PICAMERA2)
    monkeypatch.setenv("PYTHONPATH", str(library))
    camera = {"kind": "camera", "backend": "picamera2", "name": "porch", "frame_within_s": 1.5}
    device = beside_a_healthy_one(rig, rig.server(), camera)
    told = device.until(lambda: trouble(status(device), "porch"), "the status tells of it")
    assert "gives no picture within 1.5 s" in told
    doctor = command("edge_runtime", "doctor", "-c", device.config, "--no-server")
    assert "source porch: gives no picture within 1.5 s" in doctor.stdout
    # The library is loaded anew, since what hung is gone with its process.
    device.until(lambda: len((library / "opened").read_text()) >= 3, "it is opened again")
    found = device.until(
        lambda: (s := status(device)).get("sources", {}).get("porch", {}).get("pictures", 0) > 40 and s
    )
    assert found["sources"]["porch"]["reconnects"] >= 2
    goes_on(device)
    ends_well(device)
    spent_is_what_left(device, command)


def test_a_watched_folder_on_a_file_system_that_hangs(
    rig: Any, status: Any, command: Any, hanging: HangingFolder
) -> None:
    watch = {
        "kind": "watch", "path": str(hanging.place), "poll_s": 0.1, "settle_s": 0.0, "frame_within_s": 1.0,
        "after": "delete", "name": "incoming",
    }  # fmt: skip
    device = beside_a_healthy_one(rig, rig.server(), watch)
    picture = rig.parts.pictures / "0.png"

    def answered() -> list[str]:
        return [record["name"] for record in device.records() if record["source"] == "incoming"]

    shutil.copy(picture, hanging.folder / "first.png")
    device.until(lambda: answered() == ["first.png"], "the first file")
    device.until(lambda: not list(hanging.folder.iterdir()), "the file is deleted")
    hanging.hang()
    told = device.until(lambda: trouble(status(device), "incoming"), "the status tells of it")
    assert "hangs: a call" in told
    doctor = command("edge_runtime", "doctor", "-c", device.config, "--no-server")
    assert "source incoming: hangs: a call" in doctor.stdout
    assert "disk, driver or library hangs" in doctor.stdout  # its own look at the folder ended, too
    goes_on(device)
    hanging.go_on()
    shutil.copy(picture, hanging.folder / "second.png")
    device.until(lambda: "second.png" in answered(), "the second file")
    device.until(lambda: not trouble(status(device), "incoming"), "the trouble is over")
    hanging.hang()
    device.until(lambda: trouble(status(device), "incoming"), "it hangs again")
    ends_well(device)
    assert answered() == ["first.png", "second.png"]
    spent_is_what_left(device, command)


def test_a_serial_port_whose_driver_blocks(rig: Any, status: Any, command: Any, hanging: HangingFolder) -> None:
    """Opening it does not return, as with a USB adapter whose firmware hangs."""
    port = hanging.folder / "ttyUSB0"
    port.touch()
    serial = {"kind": "serial", "port": str(hanging.place / port.name), "name": "line", "frame_within_s": 1.0}
    device = beside_a_healthy_one(rig, rig.server(), serial)
    device.until(lambda: "cannot be opened" in trouble(status(device), "line"), "a file is no port")
    hanging.hang()
    device.until(lambda: "hangs: a call" in trouble(status(device), "line"), "the status tells of it")
    goes_on(device)
    ends_well(device)
    spent_is_what_left(device, command)


def test_a_start_beside_a_folder_that_hangs_already(rig: Any, status: Any, hanging: HangingFolder) -> None:
    hanging.hang()
    watch = {"kind": "watch", "path": str(hanging.place), "name": "incoming", "frame_within_s": 1.0}
    device = beside_a_healthy_one(rig, None, watch)
    with contextlib.suppress(AssertionError):  # the start waits for each source, for twenty seconds in all
        device.until(lambda: healthy(device))
    goes_on(device)
    assert "hangs" in trouble(status(device), "incoming")
    ends_well(device)


@pytest.fixture
def systemd_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """What the service manager was told at last."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        lines: list[str] = []

        def last() -> str:
            with contextlib.suppress(BlockingIOError):
                while True:
                    lines.extend(made.recv(4096).decode().splitlines())
            return [line for line in ["STATUS=", *lines] if line.startswith("STATUS=")][-1]

        yield last


def test_a_camera_with_the_wrong_extra_takes_no_other_source_down(
    rig: Any, status: Any, systemd_says: Callable[[], str]
) -> None:
    camera = {"kind": "camera", "backend": "picamera2", "name": "porch"}
    device = beside_a_healthy_one(rig, None, camera)
    goes_on(device)
    device.until(lambda: "source porch: " in systemd_says(), "the status line of systemd")
    assert "a camera needs picamera2, which cannot be imported" in systemd_says()
    assert "sudo apt install python3-picamera2" in trouble(status(device), "porch")
    ends_well(device)


def test_a_service_with_nothing_but_a_broken_camera_goes_on_and_says_why(
    rig: Any, status: Any, systemd_says: Callable[[], str]
) -> None:
    device = rig.device(tables={"source": {"kind": "camera", "backend": "picamera2"}}, emulation_slowdown=1.0)
    device.until(lambda: "cannot be imported" in systemd_says(), "the status line of systemd")
    assert "cannot be imported" in trouble(status(device), "camera")
    assert device.stop() == 0


def test_without_a_service_manager_a_program_of_which_no_source_works_ends_with_the_reason(rig: Any) -> None:
    device = rig.device(tables={"source": {"kind": "camera", "backend": "picamera2"}})
    assert device.ended() == os.EX_UNAVAILABLE
    assert "sudo apt install python3-picamera2" in device.log()


def test_a_sink_that_is_broken_takes_no_other_one_down(rig: Any, status: Any, systemd_says: Any) -> None:
    sinks = [{"path": "answers.jsonl"}, {"path": "/dev/full", "name": "full"}]
    device = rig.device(tables={"sink": sinks}, emulation_slowdown=1.0, planner_split="local")
    device.until(lambda: "sink full: /dev/full: No space left on device" in systemd_says(), "the status line")
    device.wait_more("local", 5)
    found = status(device)
    assert "No space left on device" in found["sink_trouble"]["full"]
    assert found["sinks"]["full"]["lost"] > 0
    assert device.stop() == 0
    assert device.log().count("No space left on device") == 1


def test_answers_that_a_full_disk_did_not_take_are_given_again_once_there_is_room(
    rig: Any, status: Any, tmp_path: Path, systemd_says: Any
) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounts a file system, which needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    try:
        filling = disk / "filling"
        with contextlib.suppress(OSError), filling.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))
        incoming = tmp_path / "incoming"
        shutil.copytree(rig.parts.pictures, incoming)
        watch = {"kind": "watch", "path": str(incoming), "settle_s": 0.0, "poll_s": 0.05}
        device = rig.device(
            tables={"source": watch, "sink": {"path": str(disk / "answers.jsonl")}},
            device_state="state", emulation_slowdown=1.0, planner_split="local",
        )  # fmt: skip
        device.until(lambda: status(device).get("sinks", {}).get("jsonl", {}).get("lost") == 4, "four are lost")
        assert "No space left on device" in systemd_says()
        filling.unlink()
        time.sleep(1.1)  # the sink's pause
        shutil.copy(incoming / "0.png", incoming / "new.png")

        def kept() -> set[str]:
            lines = (disk / "answers.jsonl").read_text().splitlines()
            return {json.loads(line)["name"] for line in lines}

        names = {"0.png", "1.png", "2.png", "3.png", "new.png"}
        device.until(lambda: kept() == names, "every answer is there in the end")
        device.until(lambda: status(device)["sink_trouble"] == {}, "the trouble is over in the status, too")
        assert device.stop() == 0
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)

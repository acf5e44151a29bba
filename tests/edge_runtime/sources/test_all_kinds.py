"""Every kind of source at once in the real program, with a server, for both objectives, through a SIGTERM."""

from __future__ import annotations

import collections
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_runtime.client import BusyError, Client, NoAnswerError, RefusedError
from edge_runtime.sources.serial_packets import write_packet

cv2 = pytest.importorskip("cv2", reason="needs OpenCV: the extra 'camera'")

ENDS = ("offloaded", "local", "fallback", "failed", "dropped")
PICTURES = 12


class Submitter(threading.Thread):
    """Asks as fast as it gets answers, until it is told that there will be none."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.answered: list[str] = []
        self.sent = 0
        self.end = ""
        self.start()

    def run(self) -> None:
        pixels = np.zeros((8, 8, 3), np.uint8)
        with Client(self.path, timeout_s=20) as client:
            while not self.end:
                name = f"app{self.sent}"
                try:
                    self.answered.append(client.ask(pixels, name=name).record["name"])
                    self.sent += 1
                except BusyError:
                    time.sleep(0.01)
                except RefusedError as error:
                    self.end = error.code
                except NoAnswerError as error:
                    self.end = str(error)


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_all_kinds_flow_together_and_what_was_accepted_is_answered(
    rig: Any, parts: Any, line: Any, tmp_path: Path, objective: str
) -> None:
    video, folder = tmp_path / "video.avi", tmp_path / "incoming"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 100.0, (16, 16))
    for _ in range(50):
        writer.write(np.full((16, 16, 3), 99, np.uint8))
    writer.release()
    folder.mkdir()
    for number in range(PICTURES):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / f"{number}.png")
    sources = [
        {"kind": "files", "path": str(parts.arrays), "repeat": 0, "subject": "archive"},
        {"kind": "watch", "path": str(folder), "poll_s": 0.02, "settle_s": 0.0, "subject": "inbox"},
        {"kind": "camera", "device": str(video), "subject": "porch"},
        {"kind": "serial", "port": str(line.port), "policy": "all", "subject": "mcu"},
        {"kind": "socket", "path": "frames.sock", "subject": "apps"},
    ]
    state = {"bundle": str(parts.bundle.root), "key": "device.key", "state": str(tmp_path / "state")}
    device = rig.device(
        rig.server(), tables={"source": sources, "device": state, "emulation": {}}, planner_objective=objective
    )
    device.until((device.config.parent / "frames.sock").exists)
    device.until(lambda: ": reading " + str(line.port) in device.log())
    apps = [Submitter(device.config.parent / "frames.sock") for _ in range(2)]
    line.send(b"".join(write_packet(np.zeros((8, 8, 3), np.float32), number) for number in range(40)))

    def answered() -> collections.Counter[str]:
        return collections.Counter(record["source"] for record in device.records())

    device.until(lambda: len(answered()) == 5 and min(answered().values()) >= 10)
    device.until(lambda: device.count("offloaded") > 0)  # the link may come up after the first frames
    device.popen.send_signal(15)
    assert device.ended() == 0
    for app in apps:
        app.join(20)

    counters = device.counters()
    found = answered()
    assert counters["frames_in"] == sum(counters[end] for end in ENDS)
    assert counters["failed"] == 0
    assert found.total() == counters["frames_in"] - counters["dropped"]
    assert counters["offloaded"] > 0
    log = device.log()
    told = {}
    for text in log.splitlines():
        for source in found:
            if f"source {source}: frames=" in text:
                pairs = text.split(f"source {source}: ")[1].split()
                told[source] = collections.Counter(
                    {key: int(value) for key, value in (pair.split("=") for pair in pairs)}
                )
    # Whatever a source gave was answered, or dropped and counted, by the policy of its kind.
    assert {name: one["frames"] - one["dropped"] for name, one in told.items()} == dict(found)
    assert all(told[name]["dropped"] == 0 for name in ("files", "watch", "serial", "socket"))
    assert told["serial"]["packets"] == told["serial"]["frames"]
    # The programs got an answer to everything that was accepted, and were told when it was over.
    assert told["socket"]["undeliverable"] == 0
    names = sorted(name for app in apps for name in app.answered)
    assert names == sorted(record["name"] for record in device.records() if record["source"] == "socket")
    assert all(app.end == "stopping" or "nobody is there" in app.end or "no answer" in app.end for app in apps)
    watched = [record["name"] for record in device.records() if record["source"] == "watch"]
    assert len(watched) == len(set(watched))
    assert not (device.config.parent / "frames.sock").exists()

"""Cameras, as far as that goes without one: OpenCV on video files, and a picamera2 that was made up."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.sources import Frame, Wanted
from edge_runtime.sources.camera import CameraTable
from split_model.bundle import ImagePreprocess, TensorSpec
from split_model.errors import BackendError, ConfigError

cv2 = pytest.importorskip("cv2", reason="needs OpenCV: the extra 'camera'")

PATIENCE_S = 20.0
ENDS = ("offloaded", "local", "fallback", "failed", "dropped")
SPEC = TensorSpec(name="in", shape=(1, 8, 8, 3), dtype="float32")
WANTED = Wanted((SPEC,), preprocess=ImagePreprocess(resize=8, crop=(8, 8), scale=(255.0,)))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Ten pictures a second for two seconds, all of them reddish, ever brighter."""
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 48))
    assert writer.isOpened()
    for number in range(20):
        bgr = np.zeros((48, 64, 3), np.uint8)
        bgr[..., 2] = 50 + 10 * number
        writer.write(bgr)
    writer.release()
    return path


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[Frame]]:
    """Reads so many frames of a camera."""

    def frames(count: int, *, colour: str = "rgb", **table: Any) -> list[Frame]:
        preprocess = ImagePreprocess(resize=48, crop=(48, 48), scale=(1.0,), colour=colour)
        spec = TensorSpec(name="in", shape=(1, 48, 48, 1 if colour == "grey" else 3), dtype="float32")
        source = CameraTable(**table).open(Wanted((spec,), preprocess=preprocess, state=tmp_path))
        until_s = time.monotonic() + PATIENCE_S
        found: list[Frame] = []
        for make in source.frames(lambda: len(found) == count or time.monotonic() > until_s):
            found.append(make())  # noqa: PERF401  the end looks at it meanwhile
        source.close()
        assert len(found) == count, source.trouble
        return found

    return frames


@pytest.mark.parametrize("backend", ["opencv"])
def test_pictures_are_rgb_and_at_the_pace_of_the_video(read: Any, video: Path, backend: str) -> None:
    frames = read(6, device=str(video), backend=backend)
    assert frames[5].captured_s - frames[0].captured_s >= 0.4
    third = frames[3].tensors[0]
    assert third[..., 0].mean() == pytest.approx(80, abs=6)
    assert third[..., 2].mean() < 8


def test_grey_models_get_one_channel(read: Any, video: Path) -> None:
    frames = read(4, device=str(video), fps=1000.0, colour="grey")
    assert frames[3].tensors[0].shape == (1, 48, 48, 1)
    assert frames[3].tensors[0].mean() == pytest.approx(0.299 * 80, abs=6)


def test_the_newest_picture_wins_and_all_are_counted(rig: Any, video: Path) -> None:
    """In the real program, on a board that is slower than the camera; the video ends and is opened again."""
    source = {"kind": "camera", "device": str(video), "fps": 1000.0, "name": "porch", "subject": "porch"}
    device = rig.device(tables={"source": source}, planner_split="local")
    device.until(lambda: len(device.records()) > 6 and device.log().count("reading camera") > 1)
    assert device.stop() == 0
    counters = device.counters()
    assert counters["frames_in"] == sum(counters[end] for end in ENDS)
    assert counters["dropped"] > 0
    assert counters["local"] == len(device.records())
    shown = [record["name"] for record in device.records()]
    assert [int(name) for name in shown] == sorted({int(name) for name in shown})
    assert "porch" in device.log()
    assert "end of the video; it is played again" in device.log()


def test_a_camera_that_goes_away_is_waited_for(video: Path, caplog: Any) -> None:
    source = CameraTable(device=str(video), fps=1000.0).open(WANTED)
    away = video.with_name("away")
    video.rename(away)
    stop = threading.Event()
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(source.frames(stop.is_set)))
    thread.start()
    deadline_s = time.monotonic() + PATIENCE_S
    try:
        while "cannot be opened" not in caplog.text:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        away.rename(video)
        while source.counters()["pictures"] < 25:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
    finally:
        stop.set()
        thread.join()
    assert source.counters()["reconnects"] >= 1
    assert found[3]().tensors[0].shape == (1, 8, 8, 3)


#: What picamera2's documentation says of the calls that we make.
PICAMERA2 = """
import json, pathlib
import numpy as np


class Picamera2:
    def __init__(self, number):
        self.calls = [number]
        self.pictures = 3

    def create_video_configuration(self, **options):
        return options

    def configure(self, options):
        self.calls.append(options)

    def start(self):
        self.calls.append("start")
        pathlib.Path(__file__).with_name("calls.json").write_text(json.dumps(self.calls))

    def capture_array(self, stream):
        assert stream == "main"
        self.pictures -= 1
        if self.pictures < 0:
            raise RuntimeError("camera frontend has timed out")
        return np.full((48, 64, 3), (200, 100, 50), np.uint8)
"""


def test_picamera2_is_asked_for_rgb(
    read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "picamera2.py").write_text(PICAMERA2)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    table = {"backend": "picamera2", "device": 1, "width": 64, "height": 48, "fps": 5.0}
    frames = read(5, **table)  # it is opened again after three
    assert [tuple(frame.tensors[0][0, 0, 0]) for frame in frames] == [(200, 100, 50)] * 5
    assert "camera frontend has timed out; waiting for it" in caplog.text
    asked = {"main": {"format": "BGR888", "size": [64, 48]}, "controls": {"FrameRate": 5.0}}
    assert json.loads((tmp_path / "calls.json").read_text()) == [1, asked, "start"]
    grey = read(1, colour="grey", **table)[0]
    assert grey.tensors[0][0, 0, 0, 0] == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


def test_a_decoder_that_crashes_takes_its_process_along_and_nothing_else(
    read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    raises, crashes = 'raise RuntimeError("camera frontend has timed out")', "__import__('ctypes').string_at(0)"
    crash = PICAMERA2.replace(raises, crashes)
    (tmp_path / "picamera2.py").write_text(crash)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert len(read(5, backend="picamera2")) == 5
    assert "its reader process crashed (SIGSEGV)" in caplog.text


@pytest.mark.parametrize(
    ("table", "wanted", "named"),
    [
        (CameraTable(), Wanted((SPEC,)), "prepare it again with --preprocess"),
        (CameraTable(width=640), WANTED, "width and height go together"),
        (CameraTable(backend="picamera2", device="/dev/video0"), WANTED, "by number"),
    ],
)
def test_what_cannot_work_is_said_before_the_start(table: CameraTable, wanted: Wanted, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        table.check(wanted)


def test_a_library_that_is_missing_is_named() -> None:
    with pytest.raises(BackendError, match="apt install python3-picamera2"):
        CameraTable(backend="picamera2").check(WANTED)


def test_a_camera_that_is_not_there_is_waited_for(caplog: Any) -> None:
    source = CameraTable(device="/dev/video99").open(WANTED)
    until_s = time.monotonic() + PATIENCE_S
    assert list(source.frames(lambda: bool(source.trouble) or time.monotonic() > until_s)) == []
    assert "no camera there" in caplog.text

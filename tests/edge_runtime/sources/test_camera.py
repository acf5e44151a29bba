"""Cameras, as far as that goes without one: OpenCV on video files, and picamera2 by one that was made up."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_runtime.sources import Wanted
from edge_runtime.sources import camera as module
from edge_runtime.sources.camera import CameraTable, OpenCvGrabber, PiGrabber
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


def test_pictures_are_rgb_and_at_the_pace_of_the_video(video: Path) -> None:
    started_s = time.monotonic()
    grabber = OpenCvGrabber(CameraTable(device=str(video)), cv2, grey=False)
    pictures = [grabber.read() for _ in range(6)]
    took_s = time.monotonic() - started_s
    grabber.close()
    assert took_s >= 0.5
    assert all(picture.shape == (48, 64, 3) for picture in pictures)
    assert pictures[3][..., 0].mean() == pytest.approx(80, abs=6)
    assert pictures[3][..., 2].mean() < 8


def test_grey_models_get_one_channel(video: Path) -> None:
    grabber = OpenCvGrabber(CameraTable(device=str(video), fps=1000.0), cv2, grey=True)
    assert grabber.read().shape == (48, 64, 1)
    grabber.close()


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
    assert "gives no more pictures" in device.log()


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


class MadeUpPiCamera:
    """What picamera2's documentation says of the calls that we make."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls: list[Any] = []
        self.pictures = 3

    def create_video_configuration(self, **options: Any) -> Any:
        return options

    def configure(self, options: Any) -> None:
        self.calls.append(options)

    def start(self) -> None:
        self.calls.append("start")

    def capture_array(self, stream: str) -> Any:
        assert stream == "main"
        self.pictures -= 1
        if self.pictures < 0:
            raise RuntimeError("camera frontend has timed out")
        return np.full((48, 64, 3), (200, 100, 50), np.uint8)

    def close(self) -> None:
        self.calls.append("close")


def test_picamera2_is_asked_for_rgb() -> None:
    table = CameraTable(backend="picamera2", device=1, width=64, height=48, fps=5.0)
    made: list[MadeUpPiCamera] = []

    def make(number: int) -> MadeUpPiCamera:
        made.append(MadeUpPiCamera(number))
        return made[-1]

    grabber = PiGrabber(table, SimpleNamespace(Picamera2=make), grey=False)
    assert [tuple(grabber.read()[0, 0]) for _ in range(3)] == [(200, 100, 50)] * 3
    assert grabber.read() is None
    grabber.close()
    assert made[0].number == 1
    asked = {"main": {"format": "BGR888", "size": (64, 48)}, "controls": {"FrameRate": 5.0}}
    assert made[0].calls == [asked, "start", "close"]
    grey = PiGrabber(table, SimpleNamespace(Picamera2=make), grey=True).read()
    assert grey.shape == (48, 64, 1)
    assert grey[0, 0, 0] == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


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


def test_a_library_that_is_missing_is_named(monkeypatch: Any) -> None:
    with pytest.raises(BackendError, match="apt install python3-picamera2"):
        CameraTable(backend="picamera2").check(WANTED)

    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(module.importlib, "import_module", missing)
    with pytest.raises(BackendError, match=r"install this package with \[camera\]"):
        CameraTable().check(WANTED)


def test_a_camera_that_is_not_there_is_an_oserror_and_waited_for(caplog: Any) -> None:
    with pytest.raises(OSError, match="no camera there"):
        OpenCvGrabber(CameraTable(device="/dev/video99"), cv2, grey=False)
    source = CameraTable(device="/dev/video99").open(WANTED)
    looks = iter([False, False, True])
    assert list(source.frames(lambda: next(looks, True))) == []
    assert "no camera there" in caplog.text

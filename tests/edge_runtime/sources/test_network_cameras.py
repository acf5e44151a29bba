"""Cameras on the network, from real servers: RTSP, motion JPEG over HTTP; and pipelines of GStreamer."""

from __future__ import annotations

import base64
import http.server
import io
import logging
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_runtime.sources import Frame, Wanted
from edge_runtime.sources.camera import CameraTable
from split_model.bundle import ImagePreprocess, TensorSpec
from split_model.errors import BackendError, ConfigError, ServerUnreachableError

pytest.importorskip("cv2", reason="needs OpenCV: the extra 'camera'")

SYSTEM_PYTHON = "/usr/bin/python3"
HERE = Path(__file__).parent
PATIENCE_S = 40.0
PASSWORD = "s3cret-pw"
SPEC = TensorSpec(name="in", shape=(1, 8, 8, 3), dtype="float32")
REDDISH = (200, 50, 20)


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    preprocess = ImagePreprocess(resize=8, crop=(8, 8), scale=(255.0,))
    return Wanted((SPEC,), preprocess=preprocess, state=tmp_path)


@pytest.fixture(scope="session")
def gstreamer() -> None:
    looked = "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0')"
    done = subprocess.run([SYSTEM_PYTHON, "-c", looked], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("needs GStreamer and its RTSP server; run tests/system/install-packages.sh as root")


class RtspServer:
    """A real one; `start` it again after a `stop` on the same port."""

    def __init__(self) -> None:
        self.port = 0

    def start(self) -> None:
        command = [SYSTEM_PYTHON, str(HERE / "rtsp_server.py"), "127.0.0.1", str(self.port), f"me:{PASSWORD}"]
        self._popen = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._popen.stdout is not None
        self.port = int(self._popen.stdout.readline())

    def stop(self) -> None:
        self._popen.kill()
        self._popen.communicate()

    def url(self, password: str = PASSWORD) -> str:
        return f"rtsp://me:{password}@127.0.0.1:{self.port}/porch"


@pytest.fixture
def rtsp(gstreamer: None) -> Iterator[RtspServer]:
    server = RtspServer()
    server.start()
    yield server
    server.stop()


class Mjpeg(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        expected = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != expected:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        stored = io.BytesIO()
        Image.new("RGB", (320, 240), REDDISH).save(stored, "JPEG")
        part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n"
        try:
            while True:
                self.wfile.write(part % (len(stored.getvalue()), stored.getvalue()))
                time.sleep(0.05)
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mjpeg() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mjpeg)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://me:{PASSWORD}@127.0.0.1:{server.server_address[1]}/mjpeg"
    server.shutdown()
    thread.join()
    server.server_close()


class Reading:
    """A camera that is read in a thread, as the program does."""

    def __init__(self, table: CameraTable, wanted: Wanted) -> None:
        self.source = table.open(wanted)
        self.frames: list[Frame] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for make in self.source.frames(self._stop.is_set):
            self.frames.append(make())

    def until(self, holds: Callable[[], Any]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline_s, (self.source.trouble, self.source.counters())
            time.sleep(0.02)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.source.close()


@pytest.fixture
def reading(wanted: Wanted) -> Iterator[Callable[..., Reading]]:
    made: list[Reading] = []

    def read(**table: Any) -> Reading:
        made.append(Reading(CameraTable(**table), wanted))
        return made[-1]

    yield read
    for one in made:
        one.close()


def is_reddish(frame: Frame) -> bool:
    colour = frame.tensors[0].mean(axis=(0, 1, 2)) * 255
    return bool(np.allclose(colour, REDDISH, atol=20))


@pytest.mark.parametrize("backend", ["opencv", "gstreamer"])
def test_an_rtsp_camera_that_goes_away_comes_back(
    reading: Any, rtsp: RtspServer, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    camera = reading(device=rtsp.url(), backend=backend, name="porch", frame_within_s=3.0)
    camera.until(lambda: len(camera.frames) >= 10)
    assert all(is_reddish(frame) for frame in camera.frames)
    rtsp.stop()
    camera.until(lambda: camera.source.trouble)
    rtsp.start()
    before = len(camera.frames)
    camera.until(lambda: len(camera.frames) >= before + 10)
    assert camera.source.counters()["reconnects"] >= 1
    assert "rtsp://127.0.0.1:" in caplog.text
    assert PASSWORD not in caplog.text + camera.source.trouble
    assert "/porch" not in caplog.text


@pytest.mark.parametrize("backend", ["opencv", "gstreamer"])
def test_a_wrong_password_is_told_without_it(
    reading: Any, rtsp: RtspServer, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    camera = reading(device=rtsp.url("wr0ng-pw"), backend=backend)
    camera.until(lambda: camera.source.trouble)
    assert "Unauthorized" in camera.source.trouble or "password" in camera.source.trouble
    assert "wr0ng-pw" not in caplog.text + camera.source.trouble


@pytest.mark.parametrize("backend", ["opencv", "gstreamer"])
def test_motion_jpeg_over_http(
    reading: Any, mjpeg: str, backend: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    if backend == "gstreamer":
        request.getfixturevalue("gstreamer")
    camera = reading(device=mjpeg, backend=backend)
    camera.until(lambda: len(camera.frames) >= 5)
    assert all(is_reddish(frame) for frame in camera.frames)
    assert PASSWORD not in caplog.text


def test_a_pipeline_of_gstreamer_without_a_word_on_formats(reading: Any, gstreamer: None) -> None:
    pipeline = "videotestsrc is-live=true pattern=solid-color foreground-color=0xffc83214 ! appsink"
    camera = reading(device=pipeline)
    camera.until(lambda: len(camera.frames) >= 5)
    assert all(is_reddish(frame) for frame in camera.frames)


def test_the_rate_and_size_that_are_asked_of_gstreamer(rtsp: RtspServer, reading: Any) -> None:
    camera = reading(device=rtsp.url(), backend="gstreamer", width=64, height=48, fps=5.0)
    camera.until(lambda: len(camera.frames) >= 3)
    assert is_reddish(camera.frames[-1])


@pytest.mark.parametrize(
    ("device", "error", "named"),
    [
        ("rtsp://", ConfigError, ("rtsp://USER:PASSWORD@HOST:554/PATH",)),
        ("rtsp://cam:99999/x", ConfigError, ("the URL cannot be read",)),
        ("rstp://me:pw-of-mine@cam/x", ConfigError, ("rstp:// is not a kind of camera", "rtsp, rtsps, http")),
        ("videotestsrc ! videoconvert", ConfigError, ("does not end in an appsink",)),
        ("videotestsrc is-lve=true ! appsink", ConfigError, ("is-lve",)),
        ("nvarguscamerasrc ! nvvidconv ! appsink", ConfigError, ("nvarguscamerasrc",)),
        ("porch.mp4", FileNotFoundError, ("no such file", "rtsp://HOST/PATH")),
    ],
)
def test_what_is_no_camera_is_refused_at_the_check(
    wanted: Wanted, gstreamer: None, device: str, error: type[Exception], named: tuple[str, ...]
) -> None:
    with pytest.raises(error) as raised:
        CameraTable(device=device).check(wanted)
    assert all(word in str(raised.value) for word in named), str(raised.value)
    assert "pw-of-mine" not in str(raised.value)


def test_a_camera_of_the_network_is_looked_for_on_request(mjpeg: str) -> None:
    assert "takes connections; path and password are tried" in CameraTable(device=mjpeg).reach()
    assert CameraTable(device="/dev/video0").reach() == ""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(ServerUnreachableError, match=f"port {port}: Connection refused"):
            CameraTable(device=f"rtsp://me:{PASSWORD}@127.0.0.1:{port}/x").reach()
    with pytest.raises(ServerUnreachableError, match=r"nowhere\.invalid has no address"):
        CameraTable(device="rtsp://nowhere.invalid/x").reach()


def test_a_missing_library_is_named_with_the_command_that_installs_it(wanted: Wanted) -> None:
    with pytest.raises(BackendError, match="sudo apt install python3-picamera2"):
        CameraTable(backend="picamera2").check(wanted)


def test_nothing_of_a_url_but_its_host_is_ever_shown(
    rig: Any, command: Any, mjpeg: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the log, the status, doctor and `config check`, while it works and while it does not."""
    wrong = mjpeg.replace(PASSWORD, "wr0ng-pw")
    sources = [
        {"kind": "camera", "device": mjpeg, "name": "porch"},
        {"kind": "camera", "device": wrong + "?key=qu3ry-key", "name": "yard"},
    ]
    device = rig.device(tables={"source": sources}, planner_split="local", emulation_slowdown=1.0)
    device.wait_more("local", 3)
    device.until(lambda: "source yard: camera" in device.log() and "waiting for it" in device.log())
    seen = command("edge_runtime", "status", "-c", device.config)
    device.until(
        lambda: "yard: TROUBLE: " in command("edge_runtime", "status", "-c", device.config).stdout,
        "the status says so",
    )
    told = [device.log(), seen.stdout]
    for words in (("status",), ("status", "--json"), ("doctor", "--no-server"), ("config", "check", "--connect")):
        done = command("edge_runtime", *words, "-c", device.config)
        told += [done.stdout, done.stderr]
    assert device.stop() == 0
    told.append(device.log())
    everything = "".join(told)
    assert "http://127.0.0.1:" in everything
    assert "yard: TROUBLE: " in everything
    for secret in (PASSWORD, "wr0ng-pw", "qu3ry-key", "/mjpeg"):
        assert secret not in everything, secret

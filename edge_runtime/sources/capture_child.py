"""Reads one camera in a separate process, which can be killed when a driver or a decoder hangs.

The device program starts this file by its path, with a Python that has the library: picamera2 and GStreamer's
bindings belong to the system's Python, not to the program's environment. So it imports only the standard library
and the one library that the camera needs. `capture_process` is the other end.

It reads one line of JSON, the request, from standard input. It writes messages to standard output, each a JSON
line; the line of a picture is followed by its bytes:

    {"kind": "ready"}                                        the library is there, and the pipeline can be built
    {"kind": "opened", "fps": 15.0}
    {"kind": "picture", "height": 480, "width": 640, "stride": 1920, "format": "RGB", "captured_s": 1.5,
     "bytes": 921600}
    {"kind": "missing", "why": "No module named 'cv2'"}      the library is not there
    {"kind": "failed", "why": "..."}                         it cannot be opened, or gives no more pictures
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from typing import Any, BinaryIO

#: The formats of pictures, with bytes per pixel.
FORMATS = {"RGB": 3, "BGR": 3, "GRAY8": 1}
_PR_SET_PDEATHSIG = 1
#: If memory runs out, the kernel kills this process first: the board loses the camera for a moment, not the
#: program.
_OOM_SCORE = "500"
_PULL_NS = 200_000_000


class MissingLibraryError(Exception):
    """The library is missing in this Python."""


class CameraError(Exception):
    """The camera cannot be opened, or gives no more pictures."""


class OpenCv:
    """A V4L2 camera, a video file, a stream by its URL, or a pipeline, through OpenCV."""

    def __init__(self, request: dict[str, Any]) -> None:
        try:
            import cv2
        except ImportError as error:
            raise MissingLibraryError(str(error)) from None
        self._cv2 = cv2
        self._request = request
        if request["is"] == "pipeline" and "GStreamer:                   YES" not in cv2.getBuildInformation():
            raise CameraError("this OpenCV is built without GStreamer: set backend = 'gstreamer'")
        cv2.setNumThreads(1)  # one conversion per picture does not need several cores

    def open(self) -> float:
        """Open the camera; returns its rate in pictures per second, 0 if unknown."""
        cv2, request, kind = self._cv2, self._request, self._request["is"]
        device = request["device"]
        if kind == "file" and not os.path.isfile(device):  # noqa: PTH113  pathlib takes time to import
            raise CameraError("cannot be opened: no such file")
        within_ms = int(1e3 * request["within_s"])
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, within_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, within_ms]
        if kind == "v4l2":
            self._capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
        elif kind == "url":
            self._capture = cv2.VideoCapture(device, cv2.CAP_FFMPEG, timeouts)
        else:
            self._capture = cv2.VideoCapture(device, cv2.CAP_GSTREAMER if kind == "pipeline" else cv2.CAP_ANY)
        if not self._capture.isOpened():
            raise CameraError(
                "no camera there, or another program has it"
                if kind == "v4l2"
                else "cannot be opened: nothing answers, or not as a video, or not with this path and password"
            )
        if kind == "v4l2":
            for name in ("width", "height", "fps"):
                if request[name] is not None:
                    self._capture.set(getattr(cv2, f"CAP_PROP_{_PROPERTIES[name]}"), request[name])
        rate = float(self._capture.get(cv2.CAP_PROP_FPS) or 0.0)
        if kind == "file":
            rate = request["fps"] or rate or 25.0
        self._interval_s = 1.0 / rate if kind == "file" else 0.0
        self._due_s = time.monotonic()
        return rate

    def read(self) -> dict[str, Any]:
        """The next picture: its message, with the bytes under ``data``."""
        there, picture = self._capture.read()
        if not there:
            raise CameraError("gives no more pictures")
        if self._interval_s:
            time.sleep(max(0.0, self._due_s - time.monotonic()))
            self._due_s += self._interval_s
        captured_s = time.monotonic()
        if self._request["grey"] and picture.ndim == 3:
            picture = self._cv2.cvtColor(picture, self._cv2.COLOR_BGR2GRAY)
        height, width = picture.shape[:2]
        name = "BGR" if picture.ndim == 3 else "GRAY8"
        return {"height": height, "width": width, "stride": width * FORMATS[name], "format": name,
                "captured_s": captured_s, "data": memoryview(picture).cast("B")}  # fmt: skip


_PROPERTIES = {"width": "FRAME_WIDTH", "height": "FRAME_HEIGHT", "fps": "FPS"}


class GStreamer:
    """A GStreamer pipeline that ends in an appsink. No callbacks: they need writable, executable memory."""

    def __init__(self, request: dict[str, Any]) -> None:
        try:
            import gi

            gi.require_version("Gst", "1.0")
            gi.require_version("GstApp", "1.0")
            from gi.repository import GLib, Gst, GstApp  # noqa: F401  GstApp: the appsink's own methods
        except (ImportError, ValueError) as error:
            raise MissingLibraryError(str(error)) from None
        self._gst = Gst
        Gst.init(None)
        try:
            self._pipeline = Gst.parse_launch(request["pipeline"])
        except GLib.Error as error:
            raise CameraError(f"the pipeline cannot be built: {error.message}") from None
        self._sink = self._pipeline.get_by_name("frames")
        wanted = "GRAY8" if request["grey"] else "RGB"
        self._sink.set_property("caps", Gst.Caps.from_string(f"video/x-raw, format=(string){wanted}"))
        for name, value in (("max-buffers", 1), ("drop", True), ("sync", request["is"] == "file")):
            self._sink.set_property(name, value)

    def open(self) -> float:
        """Start the pipeline; a fault shows at the first picture."""
        if self._pipeline.set_state(self._gst.State.PLAYING) == self._gst.StateChangeReturn.FAILURE:
            raise CameraError(self._trouble() or "the pipeline does not start")
        return 0.0

    def read(self) -> dict[str, Any]:
        """The next picture: its message, with the bytes under ``data``."""
        while (sample := self._sink.try_pull_sample(_PULL_NS)) is None:
            if self._sink.is_eos():
                raise CameraError("gives no more pictures")
            if trouble := self._trouble():
                raise CameraError(trouble)
        captured_s = time.monotonic()
        shape = sample.get_caps().get_structure(0)
        buffer = sample.get_buffer()
        height, width = shape.get_value("height"), shape.get_value("width")
        return {"height": height, "width": width, "stride": buffer.get_size() // height,
                "format": shape.get_value("format"), "captured_s": captured_s,
                "data": memoryview(buffer.extract_dup(0, buffer.get_size()))}  # fmt: skip

    def _trouble(self) -> str:
        kinds = self._gst.MessageType.ERROR | self._gst.MessageType.EOS
        message = self._pipeline.get_bus().pop_filtered(kinds)
        if message is None:
            return ""
        if message.type == self._gst.MessageType.EOS:
            return "gives no more pictures"
        error, _ = message.parse_error()
        return f"{message.src.get_name()}: {error.message}"


class PiCamera:
    """A Raspberry Pi's camera through picamera2."""

    def __init__(self, request: dict[str, Any]) -> None:
        try:
            import numpy as np
            import picamera2  # first: its absence is a clearer error than that of NumPy, which comes with it
        except ImportError as error:
            raise MissingLibraryError(str(error)) from None
        self._np = np
        self._library = picamera2
        self._request = request

    def open(self) -> float:
        """Open the camera of a number, and start it."""
        request = self._request
        try:
            self._camera = self._library.Picamera2(request["device"])
            # libcamera names formats by the order of bits in a word: its BGR888 is R, G, B in memory.
            main: dict[str, Any] = {"format": "BGR888"}
            if request["width"] is not None:
                main["size"] = (request["width"], request["height"])
            controls = {} if request["fps"] is None else {"FrameRate": request["fps"]}
            self._camera.configure(self._camera.create_video_configuration(main=main, controls=controls))
            self._camera.start()
        except (IndexError, OSError, RuntimeError) as error:
            raise CameraError(str(error)) from None
        return request["fps"] or 0.0

    def read(self) -> dict[str, Any]:
        """The next picture: its message, with the bytes under ``data``."""
        try:
            picture = self._np.ascontiguousarray(self._camera.capture_array("main"), self._np.uint8)
        except (OSError, RuntimeError) as error:
            raise CameraError(str(error)) from None
        captured_s = time.monotonic()
        if self._request["grey"]:
            # The weights of Rec. 601, as in OpenCV and Pillow.
            weights = self._np.array([0.299, 0.587, 0.114], self._np.float32)
            picture = (picture @ weights).round().astype(self._np.uint8)
        height, width = picture.shape[:2]
        name = "RGB" if picture.ndim == 3 else "GRAY8"
        return {"height": height, "width": width, "stride": width * FORMATS[name], "format": name,
                "captured_s": captured_s, "data": memoryview(picture.data).cast("B")}  # fmt: skip


_BACKENDS: dict[str, Any] = {"opencv": OpenCv, "gstreamer": GStreamer, "picamera2": PiCamera}


def serve(request: dict[str, Any], output: BinaryIO) -> None:
    """Serve one request; ends with the camera, or when the other end closes."""

    def say(kind: str, data: memoryview | None = None, **more: Any) -> None:
        line = {"kind": kind, **more} if data is None else {"kind": kind, **more, "bytes": data.nbytes}
        output.write(json.dumps(line).encode() + b"\n")
        if data is not None:
            output.write(data)
        output.flush()

    try:
        camera = _BACKENDS[request["backend"]](request)
        say("ready")
        if request["check"]:
            return
        say("opened", fps=camera.open())
        while True:
            say("picture", **camera.read())
    except MissingLibraryError as error:
        say("missing", why=str(error))
    except CameraError as error:
        say("failed", why=str(error))
    except BrokenPipeError:  # the program has ended, or closed its end
        return


def main() -> None:
    """Read the request, and keep standard output for messages: libraries write their own text to it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    request = json.loads(sys.stdin.buffer.readline())
    if os.getppid() != request["parent"]:  # the program ended before the line above
        return
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123
            file.write(_OOM_SCORE)
    except OSError as error:
        print(f"oom_score_adj: {error}", file=sys.stderr)
    output = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    try:
        serve(request, _Whole(output))  # type: ignore[arg-type]
    finally:
        sys.stderr.flush()
        os._exit(0)  # do not wait for a library's own threads, which may hang


class _Whole:
    """Writes all bytes; a raw file may write only some."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: Any) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def flush(self) -> None:
        pass


if __name__ == "__main__":
    main()

"""The kind ``camera``: the newest picture of a V4L2 camera by OpenCV, or of a Raspberry Pi's by picamera2.

The camera is read all the time, so that no old picture waits in its buffers; only pictures that are taken are made
into the model's input. A camera that goes away is waited for.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import msgspec
import numpy as np

from edge_runtime.board.reconnecting import Reconnecting, pause_unless
from edge_runtime.sources.source import Frame, Policy, Source, SourceTable, Wanted
from split_model.arrays import Picture
from split_model.errors import BackendError, BadInputError, ConfigError

_RETRY_S = (0.5, 5.0)

Side = Annotated[int, msgspec.Meta(ge=16, le=16384)]


class CameraTable(SourceTable, frozen=True, tag="camera"):
    """``device``: a number, a path as ``/dev/v4l/by-id/...``, or a video file, played at its own pace without end.

    ``backend``: ``opencv`` (extra ``camera``), or ``picamera2`` of Raspberry Pi OS, whose cameras have numbers.
    ``width``, ``height`` and ``fps`` are asked of the camera, which may give the nearest it has.
    """

    device: int | str = 0
    backend: Literal["opencv", "picamera2"] = "opencv"
    width: Side | None = None
    height: Side | None = None
    fps: Annotated[float, msgspec.Meta(gt=0.0, le=1000.0)] | None = None

    def check(self, wanted: Wanted) -> None:
        """The model must take pictures, and the library be installed."""
        if wanted.preprocess is None:
            raise ConfigError(
                f"source {self.label}: a camera gives pictures, and the bundle does not say how they become the "
                "model's input",
                remedy="prepare it again with --preprocess",
            )
        if (self.width is None) != (self.height is None):
            raise ConfigError(f"source {self.label}: width and height go together", remedy="set both or neither")
        if self.backend == "picamera2" and not isinstance(self.device, int):
            raise ConfigError(f"source {self.label}: picamera2 knows cameras by number", remedy="set device = 0")
        library(self.backend)

    def open(self, wanted: Wanted) -> Camera:
        """The camera itself is opened by the source's thread."""
        self.check(wanted)
        grey = wanted.preprocess is not None and wanted.preprocess.colour == "grey"
        make = OpenCvGrabber if self.backend == "opencv" else PiGrabber
        return Camera(self, wanted, lambda: make(self, library(self.backend), grey=grey))


class Grabber(Protocol):
    """An open camera."""

    def read(self) -> Picture | None:
        """Wait for the next picture, uint8 [height, width, 3] in RGB or [height, width, 1]; None: it is gone."""

    def close(self) -> None:
        """Let go of the camera."""


def library(backend: str) -> Any:
    """OpenCV or picamera2, imported; `BackendError` where it is not installed."""
    try:
        return importlib.import_module("cv2") if backend == "opencv" else importlib.import_module("picamera2")
    except ImportError as error:
        hint = "install this package with [camera]" if backend == "opencv" else "apt install python3-picamera2"
        raise BackendError(f"a camera needs {backend}, which cannot be imported ({error})", remedy=hint) from None


class Camera(Source):
    """``pictures``: read from the camera. ``reconnects``: times that it came back."""

    policy: Policy = "latest"

    def __init__(
        self,
        table: CameraTable,
        wanted: Wanted,
        make: Callable[[], Grabber],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wanted = wanted
        self._now = now
        self._pictures = 0
        self._camera = Reconnecting(
            f"source {table.label}: camera {table.device}",
            ready=f"source {table.label}: reading camera {table.device}",
            make=make,
            release=lambda grabber: grabber.close(),
            retry_s=_RETRY_S,
        )

    def frames(self, stopped: Callable[[], bool]) -> Iterator[Callable[[], Frame]]:
        """Pictures as they come, until stopped."""
        while not stopped():
            grabber = self._camera.get(lambda seconds: pause_unless(stopped, seconds))
            if grabber is None:
                continue
            try:
                while not stopped() and (picture := grabber.read()) is not None:
                    self._camera.worked()
                    yield self._later(picture)
            finally:
                self._camera.close()
            if not stopped():
                self._camera.lose("gives no more pictures")

    def counters(self) -> dict[str, int]:
        """See the class."""
        return {"pictures": self._pictures, "reconnects": self._camera.reconnects}

    def _later(self, picture: Picture) -> Callable[[], Frame]:
        captured_s, number = self._now(), self._pictures
        self._pictures += 1

        def make() -> Frame:
            name = str(number)
            try:
                tensors, placement = self._wanted.fit([picture]), self._wanted.placement([picture])
                return Frame(0, name, tensors, None, captured_s, placement=placement)
            except BadInputError as error:
                return Frame(0, name, (), None, captured_s, error=f"picture {name}: {error}")

        return make


class OpenCvGrabber:
    """A V4L2 camera, or a video file, through OpenCV."""

    def __init__(self, table: CameraTable, cv2: Any, *, grey: bool) -> None:
        cv2.setNumThreads(1)  # one conversion a picture is not worth waking the other cores
        self._cv2 = cv2
        self._grey = grey
        device = table.device
        self._live = isinstance(device, int) or device.startswith("/dev/")
        if not self._live and not Path(str(device)).is_file():
            raise FileNotFoundError(f"{device}: no such file")
        self._capture = cv2.VideoCapture(device, cv2.CAP_V4L2 if self._live else cv2.CAP_ANY)
        if not self._capture.isOpened():
            self._capture.release()
            raise OSError("no camera there, or another program has it")
        for name, value in (("WIDTH", table.width), ("HEIGHT", table.height)):
            if value is not None:
                self._capture.set(getattr(cv2, f"CAP_PROP_FRAME_{name}"), value)
        if table.fps is not None:
            self._capture.set(cv2.CAP_PROP_FPS, table.fps)
        rate = table.fps or self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        self._interval_s = 0.0 if self._live else 1.0 / rate
        self._due_s = time.monotonic()

    def read(self) -> Picture | None:
        """The next picture."""
        there, picture = self._capture.read()
        if not there:
            return None
        if not self._live:
            time.sleep(max(0.0, self._due_s - time.monotonic()))
            self._due_s += self._interval_s
        code = self._cv2.COLOR_BGR2GRAY if self._grey else self._cv2.COLOR_BGR2RGB
        converted: Picture = self._cv2.cvtColor(picture, code)
        return converted[..., None] if self._grey else converted

    def close(self) -> None:
        """Let go of the camera."""
        self._capture.release()


class PiGrabber:
    """A Raspberry Pi's camera through picamera2."""

    def __init__(self, table: CameraTable, picamera2: Any, *, grey: bool) -> None:
        self._grey = grey
        self._camera = picamera2.Picamera2(table.device)
        # libcamera names formats by the order of bits in a word: its BGR888 lies as R, G, B in memory.
        main: dict[str, Any] = {"format": "BGR888"}
        if table.width is not None and table.height is not None:
            main["size"] = (table.width, table.height)
        controls = {} if table.fps is None else {"FrameRate": table.fps}
        self._camera.configure(self._camera.create_video_configuration(main=main, controls=controls))
        self._camera.start()

    def read(self) -> Picture | None:
        """The next picture."""
        try:
            picture: Picture = np.asarray(self._camera.capture_array("main"), np.uint8)
        except (OSError, RuntimeError):
            return None
        if not self._grey:
            return picture
        # The weights of Rec. 601, as OpenCV and Pillow have them.
        grey: Picture = (picture @ np.array([0.299, 0.587, 0.114], np.float32)).round().astype(np.uint8)
        return grey[..., None]

    def close(self) -> None:
        """Let go of the camera."""
        self._camera.close()

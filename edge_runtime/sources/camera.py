"""The kind ``camera``: the newest picture of a V4L2, network or Pi camera, or a GStreamer pipeline.

A second process reads the camera all the time, so that no old picture waits in its buffers and a reader that hangs
can be killed. Only pictures that are taken are converted to the model's input. A camera that is lost, or gives no
picture in time, is reopened after a growing pause.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from edge_runtime.board.reconnecting import Reconnecting, pause_unless
from edge_runtime.sources.camera_device import CameraDevice
from edge_runtime.sources.capture_process import CaptureError, CaptureProcess, TakenPicture
from edge_runtime.sources.source import Frame, Policy, Source, SourceTable, Wanted
from split_model.errors import BackendError, BadInputError, ConfigError, MissingInputError, ServerUnreachableError

log = logging.getLogger(__name__)

_RETRY_S = (0.5, 30.0)
_WAIT_S = 0.2
#: Time limit of opening in seconds: import of a library from a slow card, and the camera's start.
_OPEN_WITHIN_S = 30.0
#: Time limit of a picture: ten times the interval of the camera's rate, and at least this many seconds.
_FRAME_WITHIN_S = 5.0
_FRAMES = 10.0
_CONNECT_WITHIN_S = 3.0
#: A camera that hangs repeatedly is reopened after longer and longer pauses, even if it gives pictures in between.
_GOOD_AFTER_S = 60.0

Side = Annotated[int, msgspec.Meta(ge=16, le=16384)]


class CameraTable(SourceTable, frozen=True, tag="camera"):
    """``device``: a number, a path as ``/dev/v4l/by-id/...``, a URL as ``rtsp://...``, a GStreamer pipeline that
    ends in ``appsink``, or a video file, played at its own rate in a loop.

    ``backend``: ``opencv`` (extra ``camera``), ``gstreamer``, or ``picamera2`` of Raspberry Pi OS, whose cameras
    have numbers; ``auto`` takes ``gstreamer`` for a pipeline, else ``opencv``. ``width``, ``height`` and ``fps``
    are requests to the camera, which may give its nearest mode.
    """

    device: int | str = 0
    backend: Literal["auto", "opencv", "gstreamer", "picamera2"] = "auto"
    width: Side | None = None
    height: Side | None = None
    fps: Annotated[float, msgspec.Meta(gt=0.0, le=1000.0)] | None = None

    @property
    def camera(self) -> CameraDevice:
        """The parsed device."""
        return CameraDevice.of(self.device, f"source {self.label}")

    @property
    def library(self) -> str:
        """The backend, with ``auto`` resolved."""
        if self.backend != "auto":
            return self.backend
        return "gstreamer" if self.camera.kind == "pipeline" else "opencv"

    def check(self, wanted: Wanted) -> None:
        """Check model, device and library, without opening the camera: the model must take pictures."""
        if wanted.preprocess is None:
            raise ConfigError(
                f"source {self.label}: a camera gives pictures, but the bundle does not say how they become the "
                "model's input",
                remedy="prepare it again with --preprocess",
            )
        if (self.width is None) != (self.height is None):
            raise ConfigError(f"source {self.label}: width and height go together", remedy="set both or neither")
        if self.backend == "picamera2" and not isinstance(self.camera.text, int):
            raise ConfigError(f"source {self.label}: picamera2 knows cameras by number", remedy="set device = 0")
        camera = self.camera
        if camera.kind == "file" and not Path(str(camera.text)).is_file():
            raise MissingInputError(
                f"source {self.label}: {camera.name}: no such file",
                remedy="name a video, a number, /dev/v4l/by-id/..., rtsp://HOST/PATH, or '... ! appsink'",
            )
        process = self.process(wanted, check=True)
        try:
            process.check()
        except BackendError as error:
            raise BackendError(f"source {self.label}: {error.problem}", remedy=error.remedy) from None
        except CaptureError as error:
            raise ConfigError(
                f"source {self.label}: {error}", remedy="correct device, or choose another backend"
            ) from None
        finally:
            process.close()

    def reach(self) -> str:
        """Look up the name of a network camera, and connect to it.

        Returns:
            What was tried; empty for a camera that is not on the network.

        Raises:
            ServerUnreachableError: Its name has no address, or it takes no connection within three seconds.

        """
        place = self.camera.place
        if place is None:
            return ""
        host, port = place
        try:
            socket.create_connection((host, port), _CONNECT_WITHIN_S).close()
        except socket.gaierror as error:
            raise ServerUnreachableError(
                f"source {self.label}: {host} has no address: {error.strerror}",
                remedy="check the name in device, and the board's DNS",
            ) from None
        except OSError as error:
            raise ServerUnreachableError(
                f"source {self.label}: {host} port {port}: {error.strerror or error}",
                remedy="check that the camera is on, and its port in device",
            ) from None
        return f"{host} port {port} takes connections; path and password are tried when the program reads it"

    def look(self, wanted: Wanted) -> str:
        """Take one picture; returns the camera's size and rate."""
        process = self.process(wanted)
        try:
            while (picture := process.read(_WAIT_S)) is None:
                pass
        except CaptureError as error:
            raise MissingInputError(
                f"source {self.label}: camera {self.camera.name} {error}",
                remedy="check its cable and device, and that no other program uses it",
            ) from None
        finally:
            process.close()
        height, width = picture.pixels.shape[:2]
        rate = f"{process.fps:.3g} frames a second" if process.fps else "it tells no rate"
        return f"{width} x {height}, {rate}"

    def open(self, wanted: Wanted) -> Camera:
        """Make the source; its thread opens the camera."""
        self.check(wanted)
        return Camera(self, lambda: self.process(wanted), wanted=wanted)

    def process(self, wanted: Wanted, *, check: bool = False) -> CaptureProcess:
        """Start the process that reads the camera; with ``check``, it only checks that it could."""
        camera, library = self.camera, self.library
        request: dict[str, Any] = {
            "backend": library,
            "device": camera.text,
            "is": camera.kind,
            "width": self.width,
            "height": self.height,
            "fps": self.fps,
            "grey": wanted.preprocess is not None and wanted.preprocess.colour == "grey",
            "check": check,
            "within_s": _OPEN_WITHIN_S,
        }
        if library == "gstreamer":
            request["pipeline"] = camera.pipeline(width=self.width, height=self.height, fps=self.fps)
        return CaptureProcess(
            request,
            open_within_s=_OPEN_WITHIN_S,
            frame_within_s=self._picture_within_s,
            without_secrets=camera.without_secrets,
            # Without this GStreamer would scan all its plug-ins at every start, as a service's user has no home.
            environment={"GST_REGISTRY": str((wanted.state / "gstreamer-registry.bin").absolute())},
        )

    def _picture_within_s(self, fps: float) -> float:
        if self.frame_within_s is not None:
            return self.frame_within_s
        rate = self.fps or fps
        return max(_FRAME_WITHIN_S, _FRAMES / rate) if rate > 0.0 else _FRAME_WITHIN_S


class Camera(Source):
    """Frames of one camera. ``pictures``: number read. ``reconnects``: times that the camera was reopened."""

    policy: Policy = "latest"

    def __init__(
        self,
        table: CameraTable,
        make: Callable[[], CaptureProcess],
        *,
        wanted: Wanted,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wanted = wanted
        self._pictures = 0
        name = table.camera.name
        self._names = table.label, name
        self._is_video = table.camera.kind == "file"
        self._camera: Reconnecting[CaptureProcess] = Reconnecting(
            f"source {table.label}: camera {name}",
            ready=f"source {table.label}: reading camera {name}",
            make=make,
            release=lambda process: process.close(),
            retry_s=_RETRY_S,
            good_after_s=_GOOD_AFTER_S,
            now=now,
        )

    def frames(self, stopped: Callable[[], bool]) -> Iterator[Callable[[], Frame]]:
        """Yield pictures as they come, until stopped."""
        played = False
        try:
            while not stopped():
                process = self._camera.get(lambda seconds: pause_unless(stopped, seconds))
                if process is None:
                    continue
                try:
                    picture = process.read(_WAIT_S)
                except (CaptureError, BackendError) as error:
                    if self._is_video and played and "no more pictures" in str(error):
                        log.info("source %s: camera %s: end of the video; it is played again", *self._names)
                        self._camera.close()
                    else:
                        self._camera.lose(str(error))
                    played = False
                    continue
                if picture is not None:
                    played = True
                    self._camera.worked()
                    yield self._later(picture)
        finally:
            self._camera.close()

    @property
    def trouble(self) -> str:
        """Why the camera gives no pictures now, or empty."""
        return self._camera.trouble

    def counters(self) -> dict[str, int]:
        """See the class."""
        return {"pictures": self._pictures, "reconnects": self._camera.reconnects}

    def _later(self, picture: TakenPicture) -> Callable[[], Frame]:
        number = self._pictures
        self._pictures += 1

        def make() -> Frame:
            name = str(number)
            try:
                pixels = np.ascontiguousarray(picture.pixels)
                tensors, placement = self._wanted.fit([pixels]), self._wanted.placement([pixels])
            except BadInputError as error:
                return Frame(0, name, (), None, picture.captured_s, error=f"picture {name}: {error}")
            return Frame(0, name, tensors, None, picture.captured_s, placement=placement)

        return make

"""Starts and watches the process that reads a camera, and kills it when it does not answer.

A thread that is stuck in a driver or a decoder cannot be ended, and blocks the camera. A process can be killed,
which frees the camera. A decoder that crashes ends only its process. `capture_child` is the other end, and lists
the messages.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.sources.capture_child import FORMATS
from split_model.arrays import Picture
from split_model.errors import BackendError

_CHILD = Path(__file__).with_name("capture_child.py")
_SYSTEM_PYTHON = "/usr/bin/python3"
_LINE_BYTES = 1 << 16
_PIPE_BYTES = 1 << 20
_MOST_BYTES = 1 << 28
_SIDE = 1 << 14
_KILLED_WITHIN_S = 1.0
#: Number of killed processes that a driver keeps from ending; at this number no more are started.
_MOST_UNKILLABLE = 3
#: Bytes of a library's last output that are kept, for the reason of its end.
_LAST_WORDS = 400

#: How to install each library, for error messages.
REMEDIES = {
    "opencv": "install this package with [camera] (pip install 'split-runtime[camera]'), "
    "or deploy with --with camera",
    "gstreamer": "sudo apt install python3-gi gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-bad gstreamer1.0-libav, or deploy with --with camera",
    "picamera2": "sudo apt install python3-picamera2, or deploy with --with camera",
}

#: Environment variables of the service manager, which a child must not get.
_OURS_ALONE = {"CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS"}

_unkillable: list[subprocess.Popen[bytes]] = []


class CaptureError(OSError):
    """The camera cannot be opened, gives no more pictures, or hangs; ``str(error)`` says which."""


@dataclass(frozen=True)
class TakenPicture:
    """A picture, uint8 [height, width, 3] in RGB or [height, width, 1], and its time (`time.monotonic`)."""

    pixels: Picture
    captured_s: float


class CaptureProcess:
    """Open from the start; `read` pictures, and `close` it. ``fps``: the rate that it tells, 0 for none.

    Args:
        request: For `capture_child`: backend, device and wishes.
        open_within_s: Time limit of opening in seconds, the import of the library included.
        frame_within_s: Time limit of a picture in seconds.
        without_secrets: Removes passwords from a library's text.
        environment: Variables besides this program's own.

    Raises:
        BackendError: In `read` or `check`: the library is missing.

    """

    def __init__(
        self,
        request: Mapping[str, Any],
        *,
        open_within_s: float,
        frame_within_s: Callable[[float], float],
        without_secrets: Callable[[str], str],
        environment: dict[str, str],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fps = 0.0
        self._request = dict(request)
        self._open_within_s = open_within_s
        self._frame_within_s = frame_within_s
        self._without_secrets = without_secrets
        self._environment = environment
        self._now = now
        self._pythons = deque(_pythons())
        self._why_missing: list[str] = []
        self._begin()

    def check(self) -> None:
        """Wait until the library is loaded and the pipeline is built, for a request that only checks."""
        while self._message(_KILLED_WITHIN_S)["kind"] != "ready":
            pass

    def read(self, timeout_s: float) -> TakenPicture | None:
        """Read the next picture; None if there is none yet.

        Raises:
            CaptureError: It cannot be opened, gives no more pictures, hangs, or has crashed.
            BackendError: Its library is missing.

        """
        message = self._message(timeout_s)
        if message["kind"] == "opened":
            self.fps = float(message["fps"])
            self._within_s = self._frame_within_s(self.fps)
            self._due_in(self._within_s, "gives no picture")
        if message["kind"] != "picture":
            return None
        self._due_in(self._within_s, "gives no picture")
        return _picture(message)

    def close(self) -> None:
        """Kill the process. One that the kernel cannot end now is abandoned, and counted."""
        self._process.kill()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(_KILLED_WITHIN_S)
        except subprocess.TimeoutExpired:
            _unkillable.append(self._process)

    def _begin(self) -> None:
        _unkillable[:] = [process for process in _unkillable if process.poll() is None]
        if len(_unkillable) >= _MOST_UNKILLABLE:
            raise CaptureError(f"{len(_unkillable)} processes that read cameras cannot be killed")
        self._python = self._pythons.popleft()
        self._process = subprocess.Popen(  # noqa: S603  ourselves
            [self._python, str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={name: value for name, value in os.environ.items() if name not in _OURS_ALONE} | self._environment,
            start_new_session=True,
        )
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        with contextlib.suppress(OSError):  # the system allows only less; that only costs time
            fcntl.fcntl(stdout.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(stdout.fileno(), False)
        os.set_blocking(stderr.fileno(), False)
        with contextlib.suppress(BrokenPipeError):  # it has ended; the reason is reported below
            stdin.write(json.dumps({**self._request, "parent": os.getpid()}).encode() + b"\n")
            stdin.close()
        self._head = bytearray()
        self._message_line: dict[str, Any] | None = None
        self._body = bytearray()
        self._filled = 0
        self._said = b""
        self._due_in(self._open_within_s, "does not open")

    def _due_in(self, within_s: float, what: str) -> None:
        self._due_s, self._due_what = self._now() + within_s, f"{what} within {within_s:.3g} s; reader killed"

    def _message(self, timeout_s: float) -> dict[str, Any]:
        """The next message; of kind ``none`` if there is none within the timeout."""
        until_s = self._now() + timeout_s
        while (message := self._take()) is None:
            left_s = until_s - self._now()
            if self._now() >= self._due_s:
                raise CaptureError(self._due_what)
            if left_s <= 0:
                return {"kind": "none"}
            self._wait(left_s)
        if message["kind"] == "failed":
            raise CaptureError(self._without_secrets(str(message["why"])))
        if message["kind"] == "missing":
            self._next_python(str(message["why"]))
            return {"kind": "none"}
        return message

    def _next_python(self, why: str) -> None:
        self._why_missing.append(f"{self._python}: {why}")
        if not self._pythons:
            backend = self._request["backend"]
            raise BackendError(
                f"a camera needs {backend}, which cannot be imported ({'; '.join(self._why_missing)})",
                remedy=REMEDIES[backend],
            )
        self.close()
        self._begin()

    def _wait(self, timeout_s: float) -> None:
        """Wait for output on either stream; keep the libraries' error text."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        out, words = self._process.stdout.fileno(), self._process.stderr.fileno()
        ready = select.select([out, words], [], [], timeout_s)[0]
        if words in ready:
            said = os.read(words, _LINE_BYTES)
            self._said = (self._said + said)[-_LAST_WORDS:]
            if not said and out not in ready:
                time.sleep(min(timeout_s, 0.01))  # only its error output is closed

    def _take(self) -> dict[str, Any] | None:
        """Take a message from the bytes so far, if it is whole; a picture's bytes are under ``data``."""
        while True:
            line = self._message_line
            if line is None:
                line = self._message_line = self._take_line()
                if line is None:
                    return None
                self._body = bytearray(int(line.get("bytes", 0)))
                self._filled = 0
            if self._filled == len(self._body):
                self._message_line = None
                return {**line, "data": self._body}
            count = self._read_into(memoryview(self._body)[self._filled :])
            if count is None:
                return None
            self._filled += count

    def _take_line(self) -> dict[str, Any] | None:
        byte = bytearray(1)
        while not self._head.endswith(b"\n"):
            if self._read_into(memoryview(byte)) is None:
                return None
            self._head += byte
            if len(self._head) > _LINE_BYTES:
                raise CaptureError("its reader process sent an invalid message")
        line, self._head = bytes(self._head), bytearray()
        message: dict[str, Any] = json.loads(line)
        if not 0 <= int(message.get("bytes", 0)) <= _MOST_BYTES:
            raise CaptureError("its reader process sent an invalid message")
        return message

    def _read_into(self, buffer: memoryview) -> int | None:
        """Read bytes into a buffer; returns their number, None if there are none now. `CaptureError` at the end."""
        assert self._process.stdout is not None
        count = self._process.stdout.readinto(buffer)  # type: ignore[attr-defined]  # a raw file
        if count == 0:
            raise CaptureError(self._end())
        return None if count is None else int(count)

    def _end(self) -> str:
        """The error for a process that ended without a message."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILLED_WITHIN_S)
        code = self._process.returncode
        words = self._said.decode(errors="replace").strip().splitlines()
        said = f": {self._without_secrets(words[-1])}" if words else ""
        if code is not None and code < 0:
            return f"its reader process crashed ({signal.Signals(-code).name}){said}"
        return f"its reader process ended{said}"


def _pythons() -> list[str]:
    """The Pythons that may have the library: this program's first, then the system's."""
    own = sys.executable
    same = not Path(_SYSTEM_PYTHON).exists() or (sys.prefix == "/usr" and Path(own).samefile(_SYSTEM_PYTHON))
    return [own] if same else [own, _SYSTEM_PYTHON]


def _picture(message: dict[str, Any]) -> TakenPicture:
    """Check and convert the pixels of a message: an attacked decoder may send anything."""
    height, width, stride, name = (message[key] for key in ("height", "width", "stride", "format"))
    channels = FORMATS.get(name, 0)
    data = message["data"]
    if not (
        channels
        and all(isinstance(value, int) for value in (height, width, stride))
        and 0 < height <= _SIDE
        and 0 < width <= _SIDE
        and width * channels <= stride
        and height * stride <= len(data)
    ):
        raise CaptureError(f"gives pictures that cannot be read: {name} {width} x {height} in {len(data)} bytes")
    rows = np.frombuffer(data, np.uint8, height * stride).reshape(height, stride)
    pixels = rows[:, : width * channels].reshape(height, width, channels)
    if name == "BGR":
        pixels = pixels[..., ::-1]
    return TakenPicture(pixels, float(message["captured_s"]))

"""The client's end of a local connection: connects and exchanges messages. Standard library only."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_runtime.local_api import framing
from split_model.errors import NotAllowedError, ProtocolError, SplitModelError

#: The device program's headers may hold long records.
_MAX_HEADER_BYTES = 64 << 20
_RETRY_S = 0.05
_MAX_WAIT_S = 3600.0
_MAX_PARTS = 64


class NoAnswerError(SplitModelError, TimeoutError):
    """No answer came in time, or no program serves the socket."""


class LostError(NoAnswerError):
    """The connection ended; its frames under way get no answer."""


class Connection:
    """A connection; retries until ``deadline_s`` (monotonic) while no program serves the socket.

    Raises:
        NotAllowedError: This user may not open the socket.
        NoAnswerError: No program serves it when the time is up.
        ProtocolError: The program that serves it speaks another protocol or version.

    """

    def __init__(self, path: Path, deadline_s: float) -> None:
        self._path = path
        self._incoming = framing.Incoming(max_header_bytes=_MAX_HEADER_BYTES)
        self._greeted = False
        self._header: list[Any] = []
        self._messages: deque[tuple[list[Any], memoryview]] = deque()
        self._ended = False
        self._socket = _connect(path, deadline_s)
        self._poll = select.poll()
        try:
            self._greet(deadline_s)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def is_alive(self) -> bool:
        """Whether the other side still has it open. Reads the bytes that have arrived."""
        self._read()
        return not self._ended

    def send(self, header: list[Any], body: Sequence[framing.Bytes], deadline_s: float) -> None:
        """Send one message; messages that arrive meanwhile are kept for `receive`."""
        encoded = json.dumps(header, separators=(",", ":")).encode()
        if len(encoded) > framing.MAX_HEADER_BYTES:
            raise ProtocolError(f"a header of {len(encoded)} bytes, at most {framing.MAX_HEADER_BYTES} can be sent")
        self._put(framing.framed(encoded, body), deadline_s)

    def receive(self, deadline_s: float) -> tuple[list[Any], memoryview]:
        """Receive the next message: header and body.

        Raises:
            NoAnswerError: Nothing came in time.
            LostError: The connection ended, and all messages that arrived were returned.

        """
        began_s = time.monotonic()
        while not self._messages:
            if self._ended:
                raise LostError(f"{self._path}: the device program closed the connection")
            if not self._wait(select.POLLIN, deadline_s):
                raise NoAnswerError(f"{self._path}: no answer within {max(0.0, deadline_s - began_s):.3g} s")
            self._read()
        return self._messages.popleft()

    def _greet(self, deadline_s: float) -> None:
        self._put([framing.hello()], deadline_s)
        while not self._greeted:
            if not self._wait(select.POLLIN, deadline_s):
                raise NoAnswerError(
                    f"{self._path}: a program listens there, but sends nothing",
                    remedy="check that it is the device program",
                )
            self._read()
            if self._ended and not self._greeted:
                raise LostError(f"{self._path}: the device program closed the connection before its hello")

    def _put(self, parts: Sequence[framing.Bytes], deadline_s: float) -> None:
        waiting = deque(memoryview(part) for part in parts if len(part))
        while waiting and not self._ended:
            try:
                count = self._socket.sendmsg(list(waiting)[:_MAX_PARTS])
            except BlockingIOError:
                if not self._wait(select.POLLIN | select.POLLOUT, deadline_s):
                    self.close()  # half a message was sent: the connection is of no more use
                    self._ended = True
                    raise NoAnswerError(f"{self._path}: the device program does not read") from None
                self._read()
                continue
            except OSError:  # it closed the connection, and may have sent the reason before
                self._read()
                self._ended = True
                return
            while count:
                part = waiting.popleft()
                if count < len(part):
                    waiting.appendleft(part[count:])
                    break
                count -= len(part)

    def _wait(self, events: int, deadline_s: float) -> bool:
        """Whether the socket is ready before the deadline."""
        self._poll.register(self._socket, events)
        left_s = deadline_s - time.monotonic()
        return bool(self._poll.poll(None if left_s == float("inf") else max(0.0, left_s) * 1e3))

    def _read(self) -> None:
        """Read the bytes that have arrived, up to the end of a message."""
        while not self._ended:
            try:
                count = self._socket.recv_into(self._incoming.room())
            except BlockingIOError:
                return
            except OSError:
                count = 0
            if not count:
                self._ended = True
                return
            event = self._filled(count)
            while event is not None:
                event = self._handle(event)
            if self._incoming.between:
                return

    def _filled(self, count: int) -> framing.Event | None:
        try:
            return self._incoming.filled(count)
        except ProtocolError as error:
            raise ProtocolError(f"{self._path}: {error}") from None

    def _handle(self, event: framing.Event) -> framing.Event | None:
        if isinstance(event, framing.Hello):
            self._greeted = True
        elif isinstance(event, framing.Header):
            self._header = json.loads(event.data)
            return self._incoming.accept()
        elif isinstance(event, framing.Body):
            self._messages.append((self._header, event.data))
        return None


def _connect(path: Path, deadline_s: float) -> socket.socket:
    while True:
        left_s = max(0.0, min(deadline_s - time.monotonic(), _MAX_WAIT_S))
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Blocking, so that the kernel keeps waiting clients in order.
        limit = struct.pack("@ll", int(left_s), int(left_s % 1.0 * 1e6) or 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        try:
            made.connect(os.fspath(path))
            made.setblocking(False)
        except PermissionError:
            made.close()
            raise NotAllowedError(f"{path}: permission denied", remedy=_remedy(path)) from None
        except (BlockingIOError, FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            made.close()
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                full = isinstance(error, BlockingIOError)
                why = "too many connections wait there already" if full else "nobody is there"
                remedy = "is the device program running, with this socket?"
                raise NoAnswerError(f"{path}: {why}", remedy=remedy) from None
            time.sleep(min(_RETRY_S, left_s))
        except BaseException:
            made.close()
            raise
        else:
            return made


def _remedy(path: Path) -> str:
    """The remedy that gives this user permission, from the visible owner and group of the socket or its folder."""
    for place in (path, *path.parents):
        with contextlib.suppress(OSError, KeyError):
            name = grp.getgrgid(place.stat().st_gid).gr_name
            return f"join the group of the socket ({name}?): sudo usermod -aG {name} USER, and log in again"
    return "join the group of the socket"

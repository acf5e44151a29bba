"""The kind ``serial``: a line of text for every answer, out of a serial port, from a thread of its own.

A port that is away is waited for. The port may be the one that a source of kind ``serial`` reads: a microcontroller
then gets its answers over the line that it asked on.
"""

from __future__ import annotations

import logging
import os
import re
import select
import termios
import threading
import time
import tty
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from numpy.typing import NDArray

from edge_runtime.sinks.sink import Sink, SinkTable
from split_model.errors import ConfigError

log = logging.getLogger(__name__)

_RETRY_S = (0.25, 2.0)
_WRITE_S = 2.0
_CLOSE_S = 1.0
_MAX_VALUES = 16
_UNSAFE = re.compile(r"[^A-Za-z0-9._\[\]-]")


class SerialLineTable(SinkTable, frozen=True, tag="serial"):
    """A serial ``port`` at ``baud``, one of the usual speeds.

    ``format``: ``compact`` is ``$A,NAME,HOW,CLASS,SCORE*XX`` (docs/sources.md), ``json`` the whole record.
    ``queue_lines`` wait for the port; when there are more, the oldest are lost.
    """

    port: Annotated[str, msgspec.Meta(min_length=1)]
    baud: Annotated[int, msgspec.Meta(ge=50, le=4_000_000)] = 115_200
    format: Literal["compact", "json"] = "compact"
    queue_lines: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 64

    def check(self) -> None:
        """The speed must be one that termios knows."""
        if not hasattr(termios, f"B{self.baud}"):
            raise ConfigError(
                f"sink {self.label}: baud = {self.baud} is none of the usual speeds",
                remedy="take one of them, as 115200",
            )

    def open(self) -> SerialLine:
        """Start the thread; it opens the port."""
        self.check()
        return SerialLine(self)


class SerialLine(Sink):
    """``written``: lines that went out whole. ``lost``: the others. ``reconnects``: times the port came back."""

    def __init__(self, table: SerialLineTable) -> None:
        self._table = table
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._written = 0
        self._lost = 0
        self._opened = 0
        self._told = ""
        self._closing_s: float | None = None
        self._port: int | None = None
        self._encoder = msgspec.json.Encoder()
        self._thread = threading.Thread(target=self._run, name=f"sink-{table.label}", daemon=True)
        self._thread.start()

    def write(self, record: Mapping[str, Any], outputs: Sequence[NDArray[Any]] = ()) -> None:
        """Queue the line of a frame; never waits."""
        if record["kind"] != "frame":
            return
        as_json = self._table.format == "json"
        line = self._encoder.encode(record) + b"\n" if as_json else compact(record, outputs)
        with self._changed:
            if len(self._lines) >= self._table.queue_lines:
                self._lines.popleft()
                self._lost += 1
            self._lines.append(line)
            self._changed.notify()

    def counters(self) -> dict[str, int]:
        """See the class."""
        with self._changed:
            return {"written": self._written, "lost": self._lost, "reconnects": max(0, self._opened - 1)}

    def close(self) -> None:
        """Write what is queued, for a second at most."""
        with self._changed:
            self._closing_s = time.monotonic() + _CLOSE_S
            self._changed.notify()
        self._thread.join()
        with self._changed:
            self._lost += len(self._lines)
            self._lines.clear()

    def _run(self) -> None:
        retry_s = _RETRY_S[0]
        while (line := self._next()) is not None:
            if self._port is None and not self._open():
                with self._changed:
                    self._lines.appendleft(line)
                self._rest(retry_s)
                retry_s = min(2 * retry_s, _RETRY_S[1])
                continue
            retry_s = _RETRY_S[0]
            done = self._put(line)
            with self._changed:
                self._written += done
                self._lost += not done
        if self._port is not None:
            os.close(self._port)

    def _next(self) -> bytes | None:
        with self._changed:
            while not self._lines and self._closing_s is None:
                self._changed.wait()
            if not self._lines or (self._closing_s is not None and time.monotonic() >= self._closing_s):
                return None
            return self._lines.popleft()

    def _rest(self, seconds: float) -> None:
        deadline_s = time.monotonic() + seconds
        with self._changed:
            while (left_s := min(deadline_s, self._closing_s or deadline_s) - time.monotonic()) > 0:
                self._changed.wait(left_s)

    def _open(self) -> bool:
        table = self._table
        try:
            port = os.open(table.port, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self._tell(f"cannot be opened ({error.strerror})")
            return False
        try:
            tty.setraw(port, termios.TCSANOW)
            settings = termios.tcgetattr(port)
            settings[4] = settings[5] = getattr(termios, f"B{table.baud}")
            settings[2] |= termios.CLOCAL
            termios.tcsetattr(port, termios.TCSANOW, settings)
        except termios.error as error:
            os.close(port)
            self._tell(f"cannot be set to {table.baud} baud ({error.args[-1]})")
            return False
        self._port, self._told = port, ""
        self._opened += 1
        log.info("sink %s: writing %s at %d baud", table.label, table.port, table.baud)
        return True

    def _put(self, line: bytes) -> bool:
        """Write a line whole; False if the port went away, or took nothing for a while."""
        assert self._port is not None
        rest = memoryview(line)
        try:
            while rest:
                if not select.select([], [self._port], [], _WRITE_S)[1]:
                    raise TimeoutError(f"takes nothing for {_WRITE_S:g} s")
                rest = rest[os.write(self._port, rest) :]
        except BlockingIOError:
            return False
        except OSError as error:
            os.close(self._port)
            self._port = None
            self._tell(f"is gone ({error.strerror or error})")
            return False
        return True

    def _tell(self, what: str) -> None:
        if what != self._told:
            log.warning("sink %s: %s %s; waiting for it", self._table.label, self._table.port, what)
        self._told = what


def compact(record: Mapping[str, Any], outputs: Sequence[NDArray[Any]]) -> bytes:
    """A line as GPS receivers write theirs: ``$``, fields, ``*`` and the XOR of what is between, in hexadecimal.

    ``A,name,how,class,score`` with the best class; ``A,name,how,value,...`` with the first values of the first
    output where the model has no classes; ``E,name`` for a frame that failed.
    """
    name = _UNSAFE.sub("_", record["name"])
    if "error" in record:
        fields = ["E", name]
    elif "top" in record:
        best = record["top"][0]
        fields = ["A", name, record["how"], str(best["class"]), f"{best['score']:.4f}"]
    else:
        fields = ["A", name, record["how"], *(f"{value:.6g}" for value in outputs[0].reshape(-1)[:_MAX_VALUES])]
    body = ",".join(fields).encode()
    check = 0
    for byte in body:
        check ^= byte
    return b"$%b*%02X\r\n" % (body, check)

"""The kind ``serial``: writes a line of text for every answer to a serial port, in its own thread.

A port that is missing is opened when it appears. It may be the port that a source of kind ``serial`` reads: a
microcontroller then gets its answers over the line that it asked on.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import termios
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import serial

from edge_runtime.board.reconnecting import Reconnecting, reason
from edge_runtime.sinks.sink import Sink, SinkTable
from split_model.answers.lines import compact_fields, shortened
from split_model.arrays import Array
from split_model.errors import ConfigError
from split_model.service.stoppable_thread import StoppableThread

_RETRY_S = (0.25, 2.0)
_WRITE_S = 2.0
_CLOSE_S = 1.0
_POLL_S = 0.05
_MAX_VALUES = 16
_UNSAFE = re.compile(r"[^A-Za-z0-9._\[\]-]")


class SerialLineTable(SinkTable, frozen=True, tag="serial"):
    """A serial ``port`` at ``baud``, one of the usual speeds.

    ``format``: ``compact`` is ``$A,NAME,OUTCOME,CLASS,SCORE*XX`` and the similar lines of docs/sources.md; ``json``
    is the whole record. At most ``queue_lines`` wait for the port; beyond that the oldest are lost.
    """

    port: Annotated[str, msgspec.Meta(min_length=1)]
    baud: Annotated[int, msgspec.Meta(ge=50, le=4_000_000)] = 115_200
    format: Literal["compact", "json"] = "compact"
    queue_lines: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 64

    def check(self) -> None:
        """Check that the speed is a usual one."""
        if self.baud not in serial.Serial.BAUDRATES:
            raise ConfigError(
                f"sink {self.label}: baud = {self.baud} is not one of the usual speeds",
                remedy="take one of them, as 115200",
            )

    def open(self) -> SerialLine:
        """Start the thread; it opens the port."""
        self.check()
        return SerialLine(self)


class SerialLine(Sink):
    """Writes lines to the port. ``written``: complete lines. ``lost``: the others. ``reconnects``: of the port."""

    def __init__(self, table: SerialLineTable) -> None:
        self._table = table
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._written = 0
        self._lost = 0
        self._closing_s: float | None = None
        self._port: Reconnecting[Any] = Reconnecting(
            f"sink {table.label}: {table.port}",
            ready=f"sink {table.label}: writing {table.port} at {table.baud} baud",
            make=lambda: _SharedPort(table.port, table.baud, timeout=0, write_timeout=0),
            release=_release,
            retry_s=_RETRY_S,
        )
        self._encoder = msgspec.json.Encoder()
        self._thread = StoppableThread(f"sink-{table.label}", self._run)
        self._thread.start()

    def write(self, record: Mapping[str, Any], outputs: Sequence[Array] = ()) -> None:
        """Queue the line of a frame, without waiting."""
        if record["kind"] != "frame":
            return
        as_json = self._table.format == "json"
        line = self._encoder.encode(shortened(record)) + b"\n" if as_json else compact(record, outputs)
        with self._changed:
            if len(self._lines) >= self._table.queue_lines:
                self._lines.popleft()
                self._lost += 1
            self._lines.append(line)
            self._changed.notify()

    def counters(self) -> dict[str, int]:
        """See the class."""
        with self._changed:
            return {"written": self._written, "lost": self._lost, "reconnects": self._port.reconnects}

    def close(self) -> None:
        """Write the queued lines, for a second at most."""
        with self._changed:
            self._closing_s = time.monotonic() + _CLOSE_S
            self._changed.notify()
        self._thread.stop(_CLOSE_S + 2 * _WRITE_S)
        with self._changed:
            self._lost += len(self._lines)
            self._lines.clear()

    def _run(self) -> None:
        while self._wait_for_line():
            port = self._port.get(self._rest)
            # A line leaves the queue only when the port is open: until then the oldest waiting line is the one to
            # lose.
            line = None if port is None else self._take()
            if line is None:
                continue
            done = self._put(port, line)
            with self._changed:
                self._written += done
                self._lost += not done
        port = self._port.device
        if port is not None:
            with contextlib.suppress(OSError):
                while port.out_waiting and time.monotonic() < (self._closing_s or 0.0):
                    time.sleep(_POLL_S)
        self._port.close()

    def _wait_for_line(self) -> bool:
        """Wait until a line is queued; False if there is nothing more to write."""
        with self._changed:
            while not self._lines and self._closing_s is None:
                self._changed.wait()
            return bool(self._lines) and (self._closing_s is None or time.monotonic() < self._closing_s)

    def _take(self) -> bytes | None:
        with self._changed:
            return self._lines.popleft() if self._lines else None

    def _rest(self, seconds: float) -> None:
        deadline_s = time.monotonic() + seconds
        with self._changed:
            while (left_s := min(deadline_s, self._closing_s or deadline_s) - time.monotonic()) > 0:
                self._changed.wait(left_s)

    def _put(self, port: Any, line: bytes) -> bool:
        """Write a whole line; False if the port was lost, or accepted nothing for a while."""
        rest = memoryview(line)
        stuck_s = time.monotonic() + _WRITE_S
        try:
            while rest:
                count = _write_some(port.fileno(), rest)
                if count:
                    rest, stuck_s = rest[count:], time.monotonic() + _WRITE_S
                elif time.monotonic() >= stuck_s:
                    raise TimeoutError(f"accepts nothing for {_WRITE_S:g} s")
        except OSError as error:
            self._port.lose(f"is gone ({reason(error)})")
            return False
        self._port.worked()
        return True


class _SharedPort(serial.Serial):  # type: ignore[misc]  # pyserial has no types
    """A port that a source may read: opening it discards no input and does not change flow control."""

    def _reset_input_buffer(self) -> None:
        pass

    def _reconfigure_port(self, force_update: bool = False) -> None:
        with contextlib.suppress(termios.error):  # pyserial itself refuses a device that is not a serial port
            self._rtscts = bool(termios.tcgetattr(self.fd)[2] & termios.CRTSCTS)
        super()._reconfigure_port(force_update)


def _write_some(descriptor: int, data: memoryview) -> int:
    """Write as many bytes as the port accepts, after one wait at most; 0 if it accepts none.

    pyserial's write would spin if a port without a timeout accepts nothing; with a timeout, it does not return the
    number of written bytes.
    """
    if not select.select([], [descriptor], [], _POLL_S)[1]:
        return 0
    try:
        return os.write(descriptor, data)
    except BlockingIOError:
        time.sleep(_POLL_S)
        return 0


def _release(port: Any) -> None:
    """Close a port. Unsent bytes are discarded, as the kernel would make the program wait for them."""
    with contextlib.suppress(OSError, termios.error):
        if port.out_waiting:
            port.reset_output_buffer()
    with contextlib.suppress(OSError):
        port.close()


def compact(record: Mapping[str, Any], outputs: Sequence[Array]) -> bytes:
    """Format a line like a GPS receiver's: ``$``, fields, ``*``, and the hexadecimal XOR of the bytes between.

    The first field is the kind: ``A`` best class (``A,name,outcome,class,score``), ``D`` boxes, ``L`` landmarks,
    ``M`` maps, ``V`` vectors (`split_model.answers.lines.compact_fields`), ``E,name`` a failed frame. Without a
    declared answer: ``A,name,outcome,value,...`` with the first values of the first output.
    """
    name = _UNSAFE.sub("_", record["name"])
    if "error" in record:
        fields = ["E", name]
    elif (told := compact_fields(record)) is not None:
        fields = [told[0], name, record["outcome"], *told[1]]
    else:
        fields = ["A", name, record["outcome"], *(f"{value:.6g}" for value in outputs[0].reshape(-1)[:_MAX_VALUES])]
    body = ",".join(fields).encode()
    check = 0
    for byte in body:
        check ^= byte
    return b"$%b*%02X\r\n" % (body, check)

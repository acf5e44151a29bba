"""The kind ``serial``: a microcontroller that sends tensors over a serial line, as `serial_packets` frames them.

A port that is missing is opened when it appears. Pseudo-terminals work too; they have no modem lines or error
counters.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from edge_runtime.board.reconnecting import Reconnecting, pause_unless, reason
from edge_runtime.sources.serial_packets import Decoder, Packet
from edge_runtime.sources.source import Frame, Policy, Source, SourceTable, Wanted
from split_model.arrays import Array
from split_model.errors import BadInputError, ConfigError, NotAllowedError

_READ_BYTES = 1 << 16
_WAIT_S = 0.2
_RETRY_S = (0.25, 2.0)
#: Linux: asks a serial driver for its counts of errors, and where in the answer the overruns are (struct
#: serial_icounter_struct: frame, overrun, parity, brk, buf_overrun from the seventh int on).
_TIOCGICOUNT = 0x545D
_COUNTS = struct.Struct("20i")
_OVERRUNS = (7, 10)


class SerialTable(SourceTable, frozen=True, tag="serial"):
    """A serial ``port`` at ``baud``, 8 data bits, no parity, one stop bit.

    ``policy``: ``latest`` answers the newest packet and drops earlier unanswered ones. ``all`` keeps up to
    ``queue_frames`` waiting, then stops reading; bytes that the kernel cannot hold are then lost unless ``rtscts``
    makes the other end wait. Packets of more than ``max_packet_bytes`` count as damaged.
    """

    port: Annotated[str, msgspec.Meta(min_length=1)]
    baud: Annotated[int, msgspec.Meta(ge=50, le=4_000_000)] = 115_200
    policy: Policy = "latest"
    queue_frames: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 64
    rtscts: bool = False
    max_packet_bytes: Annotated[int, msgspec.Meta(ge=64, le=1 << 26)] = 1 << 18

    def check(self, wanted: Wanted) -> None:
        """Check that the model has one input, and the permissions of the port if it exists already."""
        if len(wanted.inputs) != 1:
            raise ConfigError(
                f"source {self.label}: a packet has one tensor, the model takes {len(wanted.inputs)}",
                remedy="use kind 'socket'",
            )
        least_bytes = wanted.inputs[0].nbytes
        if self.max_packet_bytes < least_bytes and wanted.preprocess is None:
            raise ConfigError(
                f"source {self.label}: max_packet_bytes = {self.max_packet_bytes}, and the model's input alone "
                f"has {least_bytes}",
                remedy=f"set it to {least_bytes} or more",
            )
        if Path(self.port).exists() and not os.access(self.port, os.R_OK | os.W_OK):
            raise NotAllowedError(
                f"source {self.label}: no permission to use {self.port}",
                remedy="add this user to the port's group, most often 'dialout'",
            )

    def open(self, wanted: Wanted) -> SerialSource:
        """Make the source; its thread opens the port."""
        self.check(wanted)
        return SerialSource(self, wanted)


class SerialSource(Source):
    """Frames of one port. ``overruns``: times that the driver lost unread bytes, if it counts them.

    ``reconnects``: times that the port was reopened. The other counters are those of `Decoder`.
    """

    def __init__(
        self,
        table: SerialTable,
        wanted: Wanted,
        *,
        now: Callable[[], float] = time.monotonic,
        counts: Callable[[int], tuple[int, ...] | None] | None = None,
    ) -> None:
        self.policy = table.policy
        self.queue_frames = table.queue_frames
        self._table = table
        self._wanted = wanted
        self._now = now
        self._counts = counts or error_counts
        self._decoder = Decoder(max_packet_bytes=table.max_packet_bytes)
        self._port: Reconnecting[Any] = Reconnecting(
            f"source {table.label}: {table.port}",
            ready=f"source {table.label}: reading {table.port} at {table.baud} baud",
            make=self._open,
            release=lambda port: port.close(),
            retry_s=_RETRY_S,
        )
        self._overruns = 0
        self._overruns_at_open = 0

    def frames(self, stopped: Callable[[], bool]) -> Iterator[Frame]:
        """Yield packets as they come, until stopped."""
        while not stopped():
            port = self._port.get(lambda seconds: pause_unless(stopped, seconds))
            if port is None:
                continue
            try:
                data = self._read(port)
            except OSError as error:
                self._decoder.reset()
                self._port.lose(f"is gone ({reason(error)})")
                continue
            if data:
                self._port.worked()
                captured_s = self._now()
                for packet in self._decoder.feed(data):
                    yield self._frame(packet, captured_s)

    @property
    def opened(self) -> int:
        """Number of times that the port was opened."""
        return self._port.opened

    @property
    def trouble(self) -> str:
        """Why the port cannot be read now, or empty."""
        return self._port.trouble

    def counters(self) -> dict[str, int]:
        """See the class."""
        return {
            "packets": self._decoder.packets,
            "damaged": self._decoder.damaged,
            "missing": self._decoder.missing,
            "restarts": self._decoder.restarts,
            "overruns": self._overruns,
            "reconnects": self._port.reconnects,
        }

    def close(self) -> None:
        """Close the port."""
        self._port.close()

    def _frame(self, packet: Packet, captured_s: float) -> Frame:
        name = str(packet.sequence)
        tensors: tuple[Array, ...] = ()
        placement = None
        error = packet.error
        if packet.tensor is not None:
            try:
                tensors = self._wanted.fit([packet.tensor])
                placement = self._wanted.placement([packet.tensor])
            except BadInputError as misfit:
                error = str(misfit)
        why = error and f"packet {name}: {error}"
        return Frame(0, name, tensors, None, captured_s, error=why, placement=placement)

    def _open(self) -> Any:
        import serial

        table = self._table
        # A lock, as a second reader would take some of the bytes.
        port = serial.Serial(
            table.port, table.baud, timeout=0, write_timeout=0, rtscts=table.rtscts, exclusive=True
        )
        self._overruns_at_open = self._driver_overruns(port) - self._overruns
        return port

    def _read(self, port: Any) -> bytes:
        """Read the available bytes, after one wait at most; `OSError` if the port is gone."""
        descriptor = port.fileno()
        self._overruns = max(self._overruns, self._driver_overruns(port) - self._overruns_at_open)
        if not select.select([descriptor], [], [], _WAIT_S)[0]:
            return b""
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            raise OSError("the other end hung up")
        return data

    def _driver_overruns(self, port: Any) -> int:
        counts = self._counts(port.fileno())
        return 0 if counts is None else sum(counts[place] for place in _OVERRUNS)


def error_counts(descriptor: int) -> tuple[int, ...] | None:
    """The driver's error counts since it was loaded; None if it has none, as for a pty."""
    try:
        answer = fcntl.ioctl(descriptor, _TIOCGICOUNT, bytes(_COUNTS.size))
    except OSError:
        return None
    return _COUNTS.unpack(answer)

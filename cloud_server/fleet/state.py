"""Stores each device's last report, short history and time of contact. No I/O, no clock.

Devices are identified by their keys; a report names no device. The data of each key are bounded, and keys that are
not on the allow-list are dropped. The gateway's thread writes; other threads read copies under a lock, which is
taken once per report and twice a second, never for a message or a frame.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from split_model.protocol.messages import Report

#: Minimum seconds between two reports of a device; earlier ones are dropped.
LEAST_BETWEEN_S = 0.5
#: Maximum points of a device's history, and minimum seconds between two of them: one hour in all.
POINTS, POINT_EVERY_S = 360, 10.0
#: Maximum moves of the split point that are kept for a device.
MOVES = 32
#: Maximum number of devices with data.
MOST_DEVICES = 4096


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One report in a device's history; ``at_s`` is on the server's clock."""

    at_s: float
    split: int | None
    uplink_mbit_s: float | None
    expected_s: float | None
    offload_s: float | None
    load: float
    temperature_c: int | None
    offloaded: int
    frames_per_s: float | None


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """A move of the split point, and why; ``at_s`` is on the server's clock."""

    at_s: float
    split_from: int
    split_to: int
    why: str


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """The known state of one device; times are on the server's clock.

    Attributes:
        heard_s: When its last message came, None if none did since the server's start.
        connected: Whether it has a connection.
        report: Its last report.
        report_s: When that came.
        frames_per_s: Frames per second between its last two reports: those that the server answered, or all if the
            device
                reports all numbers exactly.
        points: Its history, oldest first.
        moves: The moves of its split point, oldest first.

    """

    heard_s: float | None = None
    connected: bool = False
    report: Report | None = None
    report_s: float = 0.0
    frames_per_s: float | None = None
    points: tuple[Point, ...] = ()
    moves: tuple[Move, ...] = ()


@dataclass(eq=False, slots=True)
class _Device:
    heard_s: float | None = None
    connected: bool = False
    report: Report | None = None
    report_s: float = 0.0
    frames_per_s: float | None = None
    points: deque[Point] = field(default_factory=lambda: deque(maxlen=POINTS))
    moves: deque[Move] = field(default_factory=lambda: deque(maxlen=MOVES))

    def known(self, *, history: bool) -> Known:
        return Known(
            heard_s=self.heard_s,
            connected=self.connected,
            report=self.report,
            report_s=self.report_s,
            frames_per_s=self.frames_per_s,
            points=tuple(self.points) if history else (),
            moves=tuple(self.moves) if history else (),
        )


class Fleet:
    """All devices by key.

    Attributes:
        reports: Number of accepted reports.
        dropped: Number of reports that came too soon after another, or found no room.

    """

    def __init__(self) -> None:
        self.reports = 0
        self.dropped = 0
        self._devices: dict[str, _Device] = {}
        self._lock = threading.Lock()

    def reported(self, key: str, report: Report, now_s: float) -> None:
        """Add a report of the device with this key."""
        with self._lock:
            device = self._devices.get(key)
            if device is None:
                if len(self._devices) >= MOST_DEVICES:
                    self.dropped += 1
                    return
                device = self._devices[key] = _Device()
            if device.report is not None and now_s - device.report_s < LEAST_BETWEEN_S:
                self.dropped += 1
                return
            self.reports += 1
            device.frames_per_s = _rate(device, report, now_s)
            _note_move(device, report, now_s)
            device.report, device.report_s, device.heard_s = report, now_s, now_s
            if not device.points or now_s - device.points[-1].at_s >= POINT_EVERY_S:
                device.points.append(_point(report, device.frames_per_s, now_s))

    def heard(self, heard_s: Mapping[str, float], admitted: Mapping[str, str]) -> None:
        """Update the connections.

        Args:
            heard_s: When each connected device was last heard, by key.
            admitted: The names of allowed devices, by key; others are dropped.

        """
        with self._lock:
            for key in [key for key in self._devices if key not in admitted]:
                del self._devices[key]
            for key in heard_s:
                if key in admitted and len(self._devices) < MOST_DEVICES:
                    self._devices.setdefault(key, _Device())
            for key, device in self._devices.items():
                at_s = heard_s.get(key)
                device.connected = at_s is not None
                if at_s is not None:
                    device.heard_s = at_s if device.heard_s is None else max(at_s, device.heard_s)

    def known(self, key: str) -> Known:
        """The known state of one device."""
        with self._lock:
            device = self._devices.get(key)
            return Known() if device is None else device.known(history=True)

    def all_known(self) -> dict[str, Known]:
        """The known state of every device, without its history."""
        with self._lock:
            return {key: device.known(history=False) for key, device in self._devices.items()}


def _rate(device: _Device, report: Report, now_s: float) -> float | None:
    before = device.report
    if before is None or report.uptime_s < before.uptime_s or before.frames.exact != report.frames.exact:
        return None
    took_s = max(report.uptime_s - before.uptime_s, now_s - device.report_s, 1e-3)
    if report.frames.exact:
        return max(0, report.frames.frames_in - before.frames.frames_in) / took_s
    return max(0, report.frames.offloaded - before.frames.offloaded) / took_s


def _note_move(device: _Device, report: Report, now_s: float) -> None:
    moved = report.moved
    if moved is None:
        return
    if device.report is not None:
        before = device.report
        restarted = report.uptime_s < before.uptime_s
        if not restarted and before.frames.moves == report.frames.moves:
            return
    move = Move(at_s=now_s - moved.ago_s, split_from=moved.split_from, split_to=moved.split_to, why=moved.why)
    device.moves.append(move)


def _point(report: Report, frames_per_s: float | None, now_s: float) -> Point:
    return Point(
        at_s=now_s,
        split=report.split,
        uplink_mbit_s=report.link.uplink_mbit_s,
        expected_s=report.expected_s,
        offload_s=None if report.offload is None else report.offload.median_s,
        load=report.board.load,
        temperature_c=report.board.temperature_c,
        offloaded=report.frames.offloaded,
        frames_per_s=frames_per_s,
    )

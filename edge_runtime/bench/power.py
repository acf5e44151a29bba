"""Reads a power meter on a serial line; joules are the integral of its watts over time.

Meters print other values too, each in its own format. A number with the unit W or mW counts; a line that holds one
number and no unit is taken as watts; anything else is skipped. pyserial is imported only here, and only when a
meter is named.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from typing import Protocol

from split_model.errors import BadInputError, MissingInputError
from split_model.service.stoppable_thread import STOP_S, StoppableThread

log = logging.getLogger(__name__)

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_WITH_UNIT = re.compile(rf"({_NUMBER})\s*(mW|W)(?![A-Za-z])")
_ALONE = re.compile(rf"\s*(?:[A-Za-z_]+\s*[:=]\s*)?({_NUMBER})\s*")
_UNITS = {"W": 1.0, "mW": 1e-3}
#: A reading older than this does not show the present power.
_STALE_S = 3.0
_READ_TIMEOUT_S = 0.2


class Meter(Protocol):
    """A source of energy readings, in joules."""

    def joules(self, from_s: float, to_s: float) -> float | None:
        """Energy between two moments of the monotonic clock; None if there are too few readings."""
        ...

    def readings(self) -> int:
        """How many it has given so far."""
        ...


def parse_watts(line: str) -> float | None:
    """The watts in one line of a meter, or None."""
    if found := _WITH_UNIT.search(line):
        watts = float(found[1]) * _UNITS[found[2]]
    elif found := _ALONE.fullmatch(line):
        watts = float(found[1])
    else:
        return None
    return watts if math.isfinite(watts) and watts >= 0 else None


class Samples:
    """Power readings in order of time; each is valid until the next. Pure."""

    def __init__(self) -> None:
        self._at_s: list[float] = []
        self._watts: list[float] = []

    def add(self, at_s: float, watts: float) -> None:
        """Add a reading that is not older than the last one."""
        self._watts.append(watts)  # first, so that a reader in another thread finds one for every time
        self._at_s.append(at_s)

    def __len__(self) -> int:
        return len(self._at_s)

    def joules(self, from_s: float, to_s: float) -> float | None:
        """The integral in joules; None if the readings leave a gap of more than a few seconds."""
        at_s, watts = self._at_s[:], self._watts[:]
        index = max(0, bisect_right(at_s, from_s) - 1)
        if not at_s or at_s[index] >= to_s:
            return None
        joules, here_s = 0.0, from_s
        while here_s < to_s:
            following_s = at_s[index + 1] if index + 1 < len(at_s) else math.inf
            until_s = min(to_s, following_s)
            if until_s - at_s[index] > _STALE_S or at_s[index] - here_s > _STALE_S:
                return None
            joules += watts[index] * (until_s - here_s)
            here_s, index = until_s, index + 1
        return joules


class SerialMeter(StoppableThread):
    """A thread that reads a meter's lines during the measurement."""

    def __init__(self, device: str, *, baud: int, now: Callable[[], float] = time.monotonic) -> None:
        import serial

        super().__init__("meter")
        self._device = device
        self._now = now
        self._samples = Samples()
        self._heard = threading.Event()
        try:
            self._port = serial.Serial(device, baud, timeout=_READ_TIMEOUT_S)
        except (serial.SerialException, OSError) as error:
            reason = getattr(error, "strerror", None) or "it cannot be opened"
            raise MissingInputError(
                f"power meter {device}: {reason}",
                remedy="check the cable and --power-meter, and that you may read it",
            ) from None

    def run(self) -> None:
        """Read lines until `stop`, or until the meter is unplugged."""
        held = b""
        while not self.stopping.is_set():
            try:
                held += self._port.read(max(1, self._port.in_waiting))
            except OSError as error:  # serial.SerialException is one
                log.warning("power meter %s: %s; the energy of the remaining runs is unknown", self._device, error)
                return
            *lines, held = held.replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                watts = parse_watts(line.decode("ascii", "replace"))
                if watts is not None:
                    self._samples.add(self._now(), watts)
                    self._heard.set()
            held = held[-256:]

    def wait_for_reading(self, timeout_s: float) -> None:
        """Wait for a reading; `BadInputError` if no line with watts comes in that time."""
        if not self._heard.wait(timeout_s):
            raise BadInputError(
                f"power meter {self._device}: no watts read in {timeout_s:g} s",
                remedy="check its baud rate, --power-baud",
            )

    def joules(self, from_s: float, to_s: float) -> float | None:
        """See `Samples.joules`."""
        return self._samples.joules(from_s, to_s)

    def readings(self) -> int:
        """How many it has given so far."""
        return len(self._samples)

    def stop(self, timeout_s: float = STOP_S) -> bool:
        """End the thread and close the port."""
        ended = super().stop(timeout_s)
        if ended:
            self._port.close()
        return ended

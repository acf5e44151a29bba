"""A device that may go away: opened, lost, and opened again after growing pauses."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

D = TypeVar("D")
_NAP_S = 0.2


class Reconnecting(Generic[D]):
    """A serial port, a camera or the like, reopened when it is lost. For one thread, except ``opened``.

    Each trouble is logged once, however often it repeats: a device that opens and is lost again at once does not
    fill the log.

    Args:
        name: The device as log lines begin with it, for example ``source porch: /dev/ttyUSB0``.
        ready: The log line for a device that was opened.
        make: Opens the device. `OSError`, `RuntimeError` and `ValueError` say why it cannot.
        release: Closes it.
        retry_s: The first pause between attempts, in seconds, and the longest; each is twice the one before.
        good_after_s: Once it has worked for this long, in seconds, its trouble is over.
        now: The clock.

    """

    def __init__(
        self,
        name: str,
        *,
        ready: str,
        make: Callable[[], D],
        release: Callable[[D], None],
        retry_s: tuple[float, float],
        good_after_s: float = 0.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.opened = 0
        self._name = name
        self._ready = ready
        self._make = make
        self._release = release
        self._first_s, self._longest_s = retry_s
        self._pause_s = self._first_s
        self._device: D | None = None
        self._good_after_s = good_after_s
        self._now = now
        self._worked = True
        self._works_since_s = 0.0
        self._told = ""
        self._flaps = False

    @property
    def reconnects(self) -> int:
        """How often the device was found again after a loss."""
        return max(0, self.opened - 1)

    @property
    def trouble(self) -> str:
        """What is wrong with a device that is missing or hangs, or was until a moment ago; else empty."""
        return f"{self._told}; it has come back" if self._told and self._worked and self._device else self._told

    @property
    def device(self) -> D | None:
        """The device, if it is open."""
        return self._device

    def get(self, pause: Callable[[float], None]) -> D | None:
        """Return the device, opened now if needed; None, after a pause, if it is missing.

        Args:
            pause: Waits for some seconds, or less when the caller is to end.

        """
        if self._device is not None:
            return self._device
        if not self._worked:  # the last attempt opened it, but it did not work
            self._worked = True
            self._wait(pause)
            return None
        try:
            self._device = self._make()
        except (OSError, RuntimeError, ValueError) as error:
            self._tell(f"cannot be opened ({reason(error)})")
            self._wait(pause)
            return None
        self.opened += 1
        self._worked = False
        if not self._flaps:
            log.info("%s", self._ready)
        return self._device

    def worked(self) -> None:
        """Note that the device works: its next trouble is a new one, and tried again at once."""
        if not self._worked:
            self._worked, self._works_since_s = True, self._now()
        if self._now() - self._works_since_s >= self._good_after_s:
            self._pause_s, self._told, self._flaps = self._first_s, "", False

    def lose(self, what: str) -> None:
        """Close a device that failed; ``what`` is for the log, for example ``is gone (Input/output error)``."""
        self.close()
        self._flaps = what == self._told
        if self._told and self._now() - self._works_since_s < self._good_after_s:
            self._worked = False  # it hangs again and again: do not reopen it at once
        self._tell(what)

    def close(self) -> None:
        """Close the device, if it is open."""
        device, self._device = self._device, None
        if device is not None:
            self._release(device)

    def _wait(self, pause: Callable[[float], None]) -> None:
        pause(self._pause_s)
        self._pause_s = min(2 * self._pause_s, self._longest_s)

    def _tell(self, what: str) -> None:
        if what != self._told:
            self._flaps = False
            log.warning("%s %s; waiting for it", self._name, what)
        self._told = what


def reason(error: Exception) -> str:
    """The reason of an error in a few words: pyserial's texts repeat the port and an errno tuple."""
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)


def pause_unless(stopped: Callable[[], bool], seconds: float) -> None:
    """Wait for some seconds, or until ``stopped`` returns true."""
    deadline_s = time.monotonic() + seconds
    while not stopped() and (left_s := deadline_s - time.monotonic()) > 0:
        time.sleep(min(left_s, _NAP_S))

"""Passes outcomes from worker threads to the gateway."""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress

from cloud_server.engine import Outcome


class Mailbox:
    """A queue of outcomes from worker threads to the gateway; ``fd`` becomes readable when there are some."""

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write_fd, False)
        self._outcomes: deque[Outcome] = deque()
        self._lock = threading.RLock()  # reentrant: a signal may arrive while this thread holds it
        self._closed = False
        self._woken = False

    def put(self, outcome: Outcome) -> None:
        """Add an outcome; safe from any thread."""
        self._outcomes.append(outcome)
        self.wake()

    def wake(self) -> None:
        """Wake the gateway; safe from any thread, and from a signal handler."""
        if self._woken:  # it was woken, and has not taken the outcomes since
            return
        with self._lock, suppress(BlockingIOError):  # the pipe may be full of wake-ups already
            if not self._closed:
                self._woken = True
                os.write(self._write_fd, b"\0")

    def take(self) -> list[Outcome]:
        """All outcomes so far."""
        with suppress(BlockingIOError):  # not woken; there may be outcomes all the same
            os.read(self.fd, 1 << 16)
        self._woken = False  # before the outcomes are taken: one that comes later wakes again
        taken = []
        while self._outcomes:
            taken.append(self._outcomes.popleft())
        return taken

    def close(self) -> None:
        """Close the queue; later outcomes are dropped."""
        with self._lock:
            self._closed = True
            os.close(self.fd)
            os.close(self._write_fd)

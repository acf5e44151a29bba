"""A serial line out of pseudo-terminals that can be unplugged, and what a microcontroller sends over it."""

from __future__ import annotations

import contextlib
import os
import select
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE_S = 60.0


class Line:
    """``port`` is what the program opens; the test is at the other end. Plug it in before use."""

    def __init__(self, port: Path) -> None:
        self.port = port
        self._ends: tuple[int, int] | None = None

    def plug(self) -> None:
        ours, theirs = os.openpty()
        tty.setraw(theirs)
        self._ends = ours, theirs
        self.port.unlink(missing_ok=True)
        self.port.symlink_to(os.ttyname(theirs))

    def unplug(self) -> None:
        """What the program has not read by now is lost."""
        if self._ends is not None:
            self.port.unlink()
            for end in self._ends:
                os.close(end)
            self._ends = None

    def send(self, data: bytes) -> None:
        """Wait for the program to read where the line's buffer is full."""
        assert self._ends is not None
        rest = memoryview(data)
        while rest:
            ready = select.select([], [self._ends[0]], [], PATIENCE_S)[1]
            assert ready, "nobody reads the line any more"
            rest = rest[os.write(self._ends[0], rest) :]

    def until_read(self) -> None:
        """Wait until the program has taken all that was sent."""
        assert self._ends is not None
        deadline_s = time.monotonic() + PATIENCE_S
        with contextlib.suppress(BlockingIOError):
            while select.select([self._ends[1]], [], [], 0)[0]:
                assert time.monotonic() < deadline_s
                time.sleep(0.002)

    def receive(self, wait_s: float = PATIENCE_S) -> bytes:
        """What the program wrote, at least a byte of it."""
        assert self._ends is not None
        assert select.select([self._ends[0]], [], [], wait_s)[0], "nothing came"
        return os.read(self._ends[0], 1 << 16)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path / "ttyTEST")
    made.plug()
    yield made
    made.unplug()

"""Watches a folder for changes by the kernel's inotify, instead of frequent polling.

Events are only a hint: the kernel misses changes of some folders, such as those on another machine's disk, so the
caller still has to check now and then.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

_IN_MODIFY, _IN_ATTRIB, _IN_CLOSE_WRITE, _IN_MOVED, _IN_CREATE, _IN_DELETE = 0x2, 0x4, 0x8, 0xC0, 0x100, 0x200
_MASK = _IN_MODIFY | _IN_ATTRIB | _IN_CLOSE_WRITE | _IN_MOVED | _IN_CREATE | _IN_DELETE
_READ_BYTES = 1 << 16


class FolderWatch:
    """A watched folder. ``fd`` becomes readable when the folder changes; None if the kernel cannot watch it."""

    def __init__(self, folder: Path) -> None:
        self.fd: int | None = None
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "inotify_init1"):
            return
        fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if fd < 0:
            return
        if libc.inotify_add_watch(fd, os.fsencode(folder), _MASK) < 0:
            os.close(fd)
            return
        self.fd = fd

    def clear(self) -> None:
        """Discard all events so far."""
        if self.fd is not None:
            with suppress(BlockingIOError):
                os.read(self.fd, _READ_BYTES)

    def close(self) -> None:
        """Stop watching."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

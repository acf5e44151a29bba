"""Hears from the kernel that something in a folder has changed (inotify), so that nobody has to look all the time.

Only a hint: there are folders whose changes the kernel does not see, such as those on another machine's disk. Who
watches looks now and then all the same.
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
    """``fd`` becomes readable when something in the folder changes; None where the kernel cannot tell."""

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
        """Forget all changes so far."""
        if self.fd is not None:
            with suppress(BlockingIOError):
                os.read(self.fd, _READ_BYTES)

    def close(self) -> None:
        """Watch no longer."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

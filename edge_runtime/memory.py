"""Gives memory back that only start-up needed: freed heap, and file pages that are not in use any more.

Loading the TFLite backend and a model touches far more of their files than running does: initialisers, op tables,
weights that the backend has packed into a form of its own. Such pages stay in the process until memory is short.
They are the file's own and unchanged, so letting them go loses nothing: one that is needed again comes back from
the page cache. Only mappings that hold no page of the process's own are touched: what was written is never lost.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

_SMAPS = Path("/proc/self/smaps")
_READ_BYTES = 1 << 16
_MADV_DONTNEED = 4  # the same number on every architecture that Linux has
# The head of a mapping (addresses, permissions, offset, device, inode, path), then its fields; only those of files
# have an inode. In one expression: some hundred kilobytes are read between two frames.
_UNCHANGED = re.compile(
    r"^(?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) .-.. \S+ \S+ [1-9]\d*\b.*\n(?:[A-Z].*\n)*?Anonymous: +0 kB$",
    re.MULTILINE,
)


def give_back() -> None:
    """Give back what can be had again. Some milliseconds in any thread; nothing where the system has no way to."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc's alone
        libc.malloc_trim(ctypes.c_size_t(0))
    if not hasattr(libc, "madvise"):
        return
    # Some hundred calls of microseconds each: to let other threads of Python run in every one would mean to wait as
    # often for our turn, and that may take milliseconds.
    brief = ctypes.PyDLL(None, use_errno=True)
    for start, end in unchanged(_read(_SMAPS, brief)):
        if brief.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED):
            log.debug("%x-%x is not given back: errno %d", start, end, ctypes.get_errno())


def _read(path: Path, libc: ctypes.PyDLL) -> str:
    """A file of /proc, which hands out a page at a time; empty where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # not Linux, or hidden
        return ""
    buffer = ctypes.create_string_buffer(_READ_BYTES)
    parts = []
    try:
        while (got := libc.read(descriptor, buffer, ctypes.c_size_t(_READ_BYTES))) > 0:
            parts.append(ctypes.string_at(buffer, got))
    finally:
        os.close(descriptor)
    return b"".join(parts).decode(errors="replace")


def unchanged(smaps: str) -> Iterator[tuple[int, int]]:
    """Addresses of the mappings of files that cannot be written to and hold no page that differs from its file.

    ``smaps``: the text of /proc/PID/smaps, see proc(5). A mapping whose ``Anonymous`` is missing is left alone.
    """
    for found in _UNCHANGED.finditer(smaps):
        yield int(found["start"], 16), int(found["end"], 16)

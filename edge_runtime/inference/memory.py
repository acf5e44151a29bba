"""Gives memory back that only start-up needed: freed heap, and file pages that are not in use any more.

Loading the TFLite backend and a model touches far more of their files than running does: initialisers, op tables,
weights that the backend has packed into a form of its own. Such pages stay in the process until memory is short.
They are the file's own and unchanged, so letting them go loses nothing: one that is needed again comes back from
the page cache. Only mappings that hold no page of the process's own are touched: written data are never lost.
Nor is what another thread puts where a file lay a moment ago: only what stays where it is meanwhile is touched, the
program's own code and the models that the caller holds.

And keeps one heap for all threads, so that one thread uses what another has freed.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from split_model.interpreter import Interpreter
from split_model.interpreter.mapped import Range

log = logging.getLogger(__name__)

_SMAPS = Path("/proc/self/smaps")
_READ_BYTES = 1 << 16
_MADV_DONTNEED = 4  # the same number on every architecture that Linux has
_M_ARENA_MAX = -8  # in glibc's malloc.h
# The head of a mapping (addresses, permissions, offset, device, inode, path), then its fields; only those of files
# have an inode. In one expression: some hundred kilobytes are read between two frames.
_OF_A_FILE = re.compile(
    r"^(?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) .(?P<writable>.).. \S+ (?P<file>\S+ [1-9]\d*)\b.*\n"
    r"(?:[A-Z].*\n)*?Anonymous: +(?P<changed_kb>\d+) kB$",
    re.MULTILINE,
)


def share_one_heap() -> None:
    """Let every thread allocate from one heap from now on; nothing where the system has no such choice.

    glibc gives each thread a heap of its own. One thread loads models, another one drops them, and what is free in
    one heap is of no use to the other: some five megabytes, where the split goes round small heads.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc's
        libc.mallopt(ctypes.c_int(_M_ARENA_MAX), ctypes.c_int(1))


def give_back(*models: Interpreter) -> None:
    """Give back what can be had again: freed heap, and pages of the program's code and of these models' files.

    Some milliseconds in any thread; nothing where the system has no way to.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc's alone
        libc.malloc_trim(ctypes.c_size_t(0))
    if not hasattr(libc, "madvise"):
        return
    # Some hundred calls of microseconds each: to let other threads of Python run in every one would mean to wait as
    # often for our turn, and that may take milliseconds.
    brief = ctypes.PyDLL(None, use_errno=True)
    held = frozenset[Range]().union(*(model.mapped for model in models))
    for start, end in unchanged(_read(_SMAPS, brief), held):
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


def unchanged(smaps: str, held: frozenset[Range] = frozenset()) -> Iterator[Range]:
    """Addresses of mappings that cannot be written to, hold no page that differs from their file, and stay there.

    ``smaps``: the text of /proc/PID/smaps, see proc(5). Those that are ``held`` stay, and those that a writable one
    of the same file follows: so lies what the dynamic loader has loaded, in the order of its segments, and an
    interpreter's modules are never unloaded. A mapping whose ``Anonymous`` is missing is left alone.
    """
    waiting: list[Range] = []
    file = ""
    for found in _OF_A_FILE.finditer(smaps):
        if found["file"] != file:
            file = found["file"]
            waiting.clear()
        place = int(found["start"], 16), int(found["end"], 16)
        if found["writable"] == "w":
            yield from waiting
            waiting.clear()
        elif found["changed_kb"] == "0":
            if place in held:
                yield place
            else:
                waiting.append(place)

"""Returns memory to the system that only start-up needed: freed heap, and file pages no longer in use.

Loading the TFLite backend and a model touches far more of their files than running does: initialisers, op tables,
weights that the backend has packed in another form. Such pages stay in the process until memory is short. They are
unchanged copies of the file, so dropping them loses nothing: a page that is needed again comes back from the page
cache. Only mappings without any private page are dropped, so written data are never lost. Another thread may unmap
a file and map something else at its address meanwhile; so only mappings that stay are dropped: the program's own
code and the models that the caller holds.

The module also makes all threads share one heap, so that one thread can use memory that another has freed.
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
    """Make all threads allocate from one heap from now on; does nothing if the system has no such option.

    By default glibc gives each thread its own heap. One thread loads models, another one drops them, and memory
    freed in one heap cannot be used by the other: some five megabytes when the split alternates between small
    heads.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc's
        libc.mallopt(ctypes.c_int(_M_ARENA_MAX), ctypes.c_int(1))


def give_back(*models: Interpreter) -> None:
    """Return freed heap and unchanged pages of the program's code and of these models' files to the system.

    Takes some milliseconds, in any thread; does nothing if the system does not support it.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc's alone
        libc.malloc_trim(ctypes.c_size_t(0))
    if not hasattr(libc, "madvise"):
        return
    # Some hundred calls of microseconds each. Releasing Python's lock in each would mean to wait for it again each
    # # time, which may take milliseconds.
    brief = ctypes.PyDLL(None, use_errno=True)
    held = frozenset[Range]().union(*(model.mapped for model in models))
    for start, end in unchanged(_read(_SMAPS, brief), held):
        if brief.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED):
            log.debug("%x-%x is not given back: errno %d", start, end, ctypes.get_errno())


def _read(path: Path, libc: ctypes.PyDLL) -> str:
    """Read a file of /proc, which gives one page per read; empty if there is no such file."""
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
    """Find read-only mappings that equal their file and stay mapped; returns their addresses.

    ``smaps``: the text of /proc/PID/smaps, see proc(5). Mappings stay if they are ``held``, or if a writable
    mapping of the same file follows: this is the order in which the dynamic loader maps the segments of a module,
    and the interpreter never unloads modules. A mapping without the field ``Anonymous`` is not used.
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

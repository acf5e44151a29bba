"""Takes the greeting of TFLite out of a program's error output.

At its first interpreter a process is told "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.", and neither
backend has a switch for it. So that first interpreter is one of our own, of a model with one operation; while it is
made, C's ``stderr`` writes into memory, and whatever is not the greeting is written to the error output afterwards.

The file descriptor stays as it is: Python's log, the traces of `faulthandler` and other programs that are started
meanwhile go where they always do. Models of users are opened afterwards, so nothing that a library says of them,
and nothing of a crash, is held back.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

_GREETING = b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
#: A TFLite model: ABS of one float32.
_MODEL = base64.b64decode(
    "GAAAAFRGTDMAAA4AFAAQAAwACAAAAAQADgAAABAAAAAcAAAAtAAAAAMAAAABAAAACAAAAAQABAAEAAAAAQAAABAAAAAMABQAEAAMAAgABAAM"
    "AAAAEAAAADwAAABAAAAARAAAAAEAAAAQAAAAAAAKAAwAAAAIAAQACgAAAAgAAAAMAAAAAQAAAAEAAAABAAAAAAAAAAEAAAABAAAAAQAAAAAA"
    "AAACAAAAIAAAAAQAAADu////BAAAAAEAAAABAAAAAAAGAAgABAAGAAAABAAAAAEAAAABAAAAAQAAABAAAAAMAAwACwAAAAAABAAMAAAAZQAA"
    "AAAAAGU="
)
_once = threading.Lock()
_started: set[str] = set()


def start(backend: str, interpreter: Callable[..., Any]) -> None:
    """Make the first interpreter of a backend; later calls do nothing.

    Args:
        backend: The backend's name.
        interpreter: Its class.

    """
    with _once:
        if backend in _started:
            return
        _started.add(backend)
        with _caught() as said, contextlib.suppress(Exception):  # the user's model meets the same, and says so
            interpreter(model_content=_MODEL, num_threads=1).allocate_tensors()
        rest = b"".join(line for line in said if line.strip() != _GREETING)
        if rest:
            os.write(2, rest)


@contextlib.contextmanager
def _caught() -> Iterator[list[bytes]]:
    """C's ``stderr`` in memory, as lines once that is over; nothing where the C library is none that allows it."""
    said: list[bytes] = []
    try:
        libc = ctypes.CDLL(None)
        stderr = ctypes.c_void_p.in_dll(libc, "stderr")
        open_memstream, flush = libc.open_memstream, libc.fflush
    except (OSError, ValueError, AttributeError):
        yield said
        return
    open_memstream.restype = ctypes.c_void_p
    flush.argtypes = [ctypes.c_void_p]
    text, length = ctypes.c_char_p(), ctypes.c_size_t()
    # Never closed: another thread may still hold it.
    memory = open_memstream(ctypes.byref(text), ctypes.byref(length))
    if not memory:
        yield said
        return
    before, stderr.value = stderr.value, memory
    try:
        yield said
    finally:
        stderr.value = before
        flush(memory)
        said += ctypes.string_at(text, length.value).splitlines(keepends=True)

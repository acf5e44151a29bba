"""Replaces a file at once: readers, a killed writer and a power cut leave the old content or the new, whole."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Write ``content`` beside ``path``, then put it in its place. The folder must exist.

    Args:
        path: The file to replace or make. A link at this place is replaced, not followed.
        content: All of it.
        mode: Permissions of the file, whatever the umask.
        durable: Whether it must outlast a power cut: the file and its folder are synced. Without, only readers
            and a killed writer are safe, which costs a memory card nothing.

    Raises:
        OSError: It cannot be written. ``path`` is as before, and nothing is left beside it.

    """
    with replacing(path, mode=mode, durable=durable) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o644, durable: bool = True) -> Iterator[BinaryIO]:
    """Write a file piece by piece; it takes its place when the block ends well. See `write_atomically`."""
    descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fchmod(descriptor, mode)
            if durable:
                os.fsync(descriptor)
        Path(scratch).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(scratch).unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

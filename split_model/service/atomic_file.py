"""Replaces files atomically: after a kill or a power cut a file has its old or its new content."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Write ``content`` beside ``path``, then rename it to ``path``. The folder must exist.

    Args:
        path: The file to replace or make. A link at this place is replaced, not followed.
        content: The whole content.
        mode: Permissions of the file, independent of the umask.
        durable: Whether it must survive a power cut: file and folder are synced. Otherwise only readers and a
            killed writer
                are safe, which does not wear a memory card.

    Raises:
        OSError: It cannot be written. ``path`` is unchanged, and no temporary file remains.

    """
    with replacing(path, mode=mode, durable=durable) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o644, durable: bool = True) -> Iterator[BinaryIO]:
    """Write a file piece by piece; it replaces ``path`` if the block succeeds. See `write_atomically`."""
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
    """Sync the names in a folder, so that they survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

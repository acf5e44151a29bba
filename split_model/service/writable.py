"""Checks whether this process could make or write a file, without changing anything."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def why_no_file(path: Path, *, made_later: Path | None = None) -> str:
    """Why this process cannot make or append to a file, or empty.

    Args:
        path: The file.
        made_later: A folder that another program will make before the file is needed.

    """
    # Not the methods of Path, which raise if a parent folder may not be searched.
    if os.path.isdir(path):  # noqa: PTH112
        return os.strerror(errno.EISDIR)
    if os.path.lexists(path):
        return "" if os.access(path, os.W_OK) else _denied(path)
    return why_no_entry(path, made_later=made_later)


def why_no_entry(path: Path, *, made_later: Path | None = None) -> str:
    """Why this process cannot make an entry, such as a socket, in a path's folder, or empty; see `why_no_file`."""
    folder = next(above for above in path.absolute().parents if os.path.exists(above))  # noqa: PTH110
    if not folder.is_dir():
        return os.strerror(errno.ENOTDIR)
    if made_later is not None and folder in made_later.parents and path.is_relative_to(made_later):
        return ""
    return "" if os.access(folder, os.W_OK | os.X_OK) else _denied(folder)


def _denied(place: Path) -> str:
    is_read_only = os.statvfs(place).f_flag & os.ST_RDONLY
    return f"{place}: {os.strerror(errno.EROFS if is_read_only else errno.EACCES)}"

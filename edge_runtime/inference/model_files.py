"""Opens a bundle's models so that nobody can rewrite them under the running program.

A backend maps a model's file and reads constants from it while it runs, so that its pages can be given back. When
such a file is rewritten in place, the answers change or the kernel ends the program (SIGBUS). So only a file that
nobody may write to is mapped where it lies. Another one is copied into the state folder once, under its SHA-256,
and mapped there; where that cannot be, its bytes are held in memory.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from split_model.bundle import Bundle, FileRef
from split_model.bundle.store import open_regular
from split_model.errors import BadBundleError, SplitModelError
from split_model.interpreter import Interpreter, open_interpreter
from split_model.service.atomic_file import replacing
from split_model.service.state_folder import make_state_folder

log = logging.getLogger(__name__)

FOLDER = "models"
_MODE = 0o400
_MOUNTS = Path("/proc/self/mountinfo")
_WRITE_BITS = 0o222
_PIECE_BYTES = 1 << 20
#: Room that copies leave on the disk for everything else in the state folder.
_LEAVE_BYTES = 16 << 20
_REMEDY = "copy or prepare the bundle again, and reload"


class ModelFiles:
    """The model files of one bundle.

    Args:
        bundle: Whose files.
        state: The device's state folder, for copies; without one, files that can be rewritten are held in memory.

    """

    def __init__(self, bundle: Bundle, state: Path | None = None) -> None:
        self.bundle = bundle
        self._folder = None if state is None else state / FOLDER
        self._told = False

    def open(self, ref: FileRef, *, backend: str | None, threads: int) -> Interpreter:
        """Load a model, of the very bytes that the manifest names.

        Raises:
            BadBundleError: The file cannot be read, or is not the one of the manifest.
            BackendError: The backend does not run this model.
            BadModelError: The backend cannot read it.

        """
        path = self.bundle.path(ref)
        try:
            file = self._fixed(ref, path)
        except SplitModelError:  # some are OSErrors too, and have their own text
            raise
        except OSError as error:
            raise BadBundleError(f"{path}: {error.strerror or error}", remedy=_REMEDY) from None
        if file is None:
            return open_interpreter(self.bundle.read(ref), backend=backend, threads=threads, source=str(path))
        with file:  # this very file, whatever has its name by now
            opened = Path(f"/proc/self/fd/{file.fileno()}")
            return open_interpreter(opened, backend=backend, threads=threads, source=str(path))

    def prune(self) -> None:
        """Remove copies that this bundle does not name, and halves that a crash has left."""
        if self._folder is None:
            return
        named = {ref.sha256 for ref in self.bundle.manifest.files()}
        with suppress(OSError), os.scandir(self._folder) as entries:  # copies that stay harm nobody
            for entry in entries:
                if entry.name not in named:
                    Path(entry.path).unlink()

    def _fixed(self, ref: FileRef, path: Path) -> BinaryIO | None:
        """A file that stays as it is and has the right bytes, open; None where there is none and can be none."""
        file = open_regular(path)
        if _is_fixed(file):
            return _checked(file, ref, path)
        file.close()
        if self._folder is None:
            return None
        place = self._folder / ref.sha256
        with suppress(OSError, BadBundleError):  # then it is made anew
            copy = open_regular(place)
            if _is_fixed(copy):
                return _checked(copy, ref, place)
            copy.close()
        try:
            return _copied(path, ref, place)
        except SplitModelError:
            raise
        except OSError as error:
            if not self._told:
                log.warning("%s: %s; models that can be rewritten are held in memory", self._folder, error.strerror)
            self._told = True
            return None


def _is_fixed(file: BinaryIO) -> bool:
    """Whether nobody may write to an open file; its owner would have to change its mode first."""
    status = os.fstat(file.fileno())
    return not status.st_mode & _WRITE_BITS or _is_read_only(status.st_dev)


def _is_read_only(device: int) -> bool:
    """Whether a file system cannot be written to through any mount; False where the kernel does not tell.

    Not `statvfs`: it tells of the mount that this program sees. In the service's sandbox nearly all of them are
    read-only, and elsewhere the same files are written to.
    """
    numbers = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError), _MOUNTS.open("rb") as mounts:
        for line in mounts:
            mount, _, file_system = line.decode(errors="replace").partition(" - ")
            if mount.split()[2:3] == [numbers]:  # all mounts of a file system share its own options
                return "ro" in file_system.split()[-1].split(",")
    return False


def _checked(file: BinaryIO, ref: FileRef, path: Path) -> BinaryIO:
    """The file, if its bytes are those of the manifest; else it is closed and `BadBundleError` raised."""
    try:
        digest = hashlib.sha256()
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
        _compare(digest.hexdigest(), ref, path)
    except BaseException:
        file.close()
        raise
    return file


def _compare(found: str, ref: FileRef, path: Path) -> None:
    if found != ref.sha256:
        raise BadBundleError(f"{path}: changed since this program started", remedy="start it again")


def _copied(path: Path, ref: FileRef, place: Path) -> BinaryIO:
    """Copy a file as `_copy` does, and open the copy."""
    _copy(path, ref, place)
    copy = open_regular(place)
    # Pages as they were written may be mapped in large pieces. Read from the disk they are mapped as they are used.
    os.posix_fadvise(copy.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return copy


def _copy(path: Path, ref: FileRef, place: Path) -> None:
    """Copy a file, checked, to a place where it is whole or not at all. Raises OSError where that cannot be."""
    make_state_folder(place.parent)
    free = os.statvfs(place.parent)
    if free.f_bavail * free.f_frsize < ref.size_bytes + _LEAVE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with replacing(place, mode=_MODE) as copy:
        digest = hashlib.sha256()
        for piece in _pieces(path):
            digest.update(piece)
            copy.write(piece)
        _compare(digest.hexdigest(), ref, path)


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with open_regular(path) as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece
    except OSError as error:
        raise BadBundleError(f"{path}: {error.strerror}", remedy=_REMEDY) from None

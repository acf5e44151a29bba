"""Opens a bundle's models so that nobody can rewrite them under the running program.

A backend maps a model's file and reads constants from it while it runs, so that its pages can be dropped. If such a
file is rewritten in place, the answers change or the kernel ends the program (SIGBUS). So a file is mapped in place
only if nobody may write to it. Any other file is copied once into the state folder, under its SHA-256, and mapped
there; if it cannot be copied, its bytes are held in memory.
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
#: Free disk space in bytes that copies leave for everything else in the state folder.
_LEAVE_BYTES = 16 << 20
_REMEDY = "copy or prepare the bundle again, and reload"


class ModelFiles:
    """The model files of one bundle.

    Args:
        bundle: The bundle with the files.
        state: The device's state folder, for copies; without it, files that can be rewritten are held in
                memory.

    """

    def __init__(self, bundle: Bundle, state: Path | None = None) -> None:
        self.bundle = bundle
        self._folder = None if state is None else state / FOLDER
        self._told = False

    def open(self, ref: FileRef, *, backend: str | None, threads: int) -> Interpreter:
        """Load a model whose bytes match the manifest's SHA-256.

        Raises:
            BadBundleError: The file cannot be read, or does not match the manifest.
            BackendError: The backend does not run this model.
            BadModelError: The backend cannot read it.

        """
        path = self.bundle.path(ref)
        try:
            file = self._fixed(ref, path)
        except SplitModelError:  # some of these are OSErrors too, with their own text
            raise
        except OSError as error:
            raise BadBundleError(f"{path}: {error.strerror or error}", remedy=_REMEDY) from None
        if file is None:
            return open_interpreter(self.bundle.read(ref), backend=backend, threads=threads, source=str(path))
        with file:  # by descriptor: its name may belong to another file by now
            opened = Path(f"/proc/self/fd/{file.fileno()}")
            return open_interpreter(opened, backend=backend, threads=threads, source=str(path))

    def prune(self) -> None:
        """Remove copies of other bundles' files, and incomplete copies left by a crash."""
        if self._folder is None:
            return
        named = {ref.sha256 for ref in self.bundle.manifest.files()}
        with suppress(OSError), os.scandir(self._folder) as entries:  # a copy that cannot be removed does no harm
            for entry in entries:
                if entry.name not in named:
                    Path(entry.path).unlink()

    def _fixed(self, ref: FileRef, path: Path) -> BinaryIO | None:
        """Open a file with the right bytes that nobody can rewrite; None if there is none and none can be made."""
        file = open_regular(path)
        if _is_fixed(file):
            return _checked(file, ref, path)
        file.close()
        if self._folder is None:
            return None
        place = self._folder / ref.sha256
        with suppress(OSError, BadBundleError):  # no such copy yet, or a bad one: it is made again
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
    """Whether nobody may write to an open file (its owner would have to change the mode first)."""
    status = os.fstat(file.fileno())
    return not status.st_mode & _WRITE_BITS or _is_read_only(status.st_dev)


def _is_read_only(device: int) -> bool:
    """Whether a file system cannot be written to through any mount; False where the kernel does not tell.

    `statvfs` does not help: it describes the mount that this program sees. In the service's sandbox nearly all
    mounts are read-only, while other programs can write to the same files.
    """
    numbers = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError), _MOUNTS.open("rb") as mounts:
        for line in mounts:
            mount, _, file_system = line.decode(errors="replace").partition(" - ")
            if mount.split()[2:3] == [numbers]:  # these options are the same for all mounts of a file system
                return "ro" in file_system.split()[-1].split(",")
    return False


def _checked(file: BinaryIO, ref: FileRef, path: Path) -> BinaryIO:
    """Return the file if its bytes match the manifest; else close it and raise `BadBundleError`."""
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
    # Pages just written may be mapped in large pieces. Pages read from the disk are mapped when they are used.
    os.posix_fadvise(copy.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return copy


def _copy(path: Path, ref: FileRef, place: Path) -> None:
    """Copy a file atomically and check the copy. Raises OSError if that fails."""
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

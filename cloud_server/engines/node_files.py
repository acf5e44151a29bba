"""Stores the files of tails on one node of a cluster by SHA-256, shared by the node's replicas.

The folder is not trusted: every reader compares a file's bytes with the expected hash.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from split_model.bundle import Bundle, FileRef, Manifest, manifest_of
from split_model.errors import BadBundleError, NotAllowedError, OutputError

_HASH = re.compile(r"[0-9a-f]{64}")
_LOCK = ".lock"
#: Seconds between two updates of a file's time of last use.
_SAME_USE_S = 60.0


def default_folder() -> Path:
    """The default folder of this user, unless `engine.node_files` names another one."""
    return Path("/var/tmp") / f"split-runtime-{os.geteuid()}" / "tails"  # noqa: S108  (its owner is checked)


class NodeFiles:
    """A folder of files, each named by the SHA-256 of its bytes. Safe for several processes.

    Args:
        folder: Made if it is missing; only this user may enter it.
        limit_bytes: Above it the least recently used files are deleted.

    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = folder.lstat()
        except OSError as error:
            raise OutputError(f"{folder}: {error.strerror}", remedy="set engine.node_files") from None
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise NotAllowedError(
                f"{folder}: not a folder that only this user may write", remedy="set engine.node_files to another"
            )

    def path(self, sha256: str) -> Path:
        """The path of the file of a hash, which may be missing."""
        if not _HASH.fullmatch(sha256):
            raise BadBundleError(f"{sha256[:80]!r} is not a SHA-256")
        return self._folder / sha256

    def missing(self, hashes: Iterable[str]) -> list[str]:
        """Return the hashes whose files are missing. The others count as used now."""
        found = []
        for sha256 in hashes:
            path = self.path(sha256)
            try:
                if path.stat().st_mtime < time.time() - _SAME_USE_S:
                    os.utime(path)
            except OSError:
                found.append(sha256)
        return found

    def add(self, sha256: str, fetch: Callable[[], bytes]) -> bool:
        """Add a missing file, unless another process of this node does. Returns whether it was added.

        Raises:
            BadBundleError: The bytes do not match the hash.
            OutputError: They cannot be written.

        """
        path = self.path(sha256)
        try:
            with self._locked():
                if path.is_file():
                    return False
                content = fetch()
                if hashlib.sha256(content).hexdigest() != sha256:
                    raise BadBundleError(f"{sha256}: received other bytes", remedy="prepare the bundle again")
                self._make_room(len(content))
                self._write(path, content)
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(f"{path}: {error.strerror}", remedy="make room on this node") from None
        return True

    def bundle(self, identity: str) -> Bundle:
        """Open the bundle of an identity, whose files are stored here by their hashes.

        Raises:
            BadBundleError: Its manifest is missing or damaged.

        """
        path = self.path(identity)
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise BadBundleError(f"{path}: {error.strerror}") from None
        if hashlib.sha256(raw).hexdigest() != identity:
            path.unlink(missing_ok=True)  # the next process that needs it fetches it again
            raise BadBundleError(f"{path}: SHA-256 differs from its name")
        manifest = manifest_of(raw, str(path))
        return NodeBundle(self, self._folder, manifest, identity)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _make_room(self, more_bytes: int) -> None:
        """Delete the least recently used files; a replica that needs one fetches it again."""
        files = [path for path in self._folder.iterdir() if path.name != _LOCK]
        sizes = {path: path.lstat() for path in files}
        total = sum(found.st_size for found in sizes.values()) + more_bytes
        for path in sorted(files, key=lambda one: sizes[one].st_mtime):
            if total <= self._limit_bytes:
                return
            path.unlink()
            total -= sizes[path].st_size

    def _write(self, path: Path, content: bytes) -> None:
        descriptor, scratch = tempfile.mkstemp(prefix=".new-", dir=self._folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            Path(scratch).rename(path)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise


class NodeBundle(Bundle):
    """A bundle whose files are stored by hash in a node's folder; `read` checks their bytes as usual."""

    def __init__(self, files: NodeFiles, root: Path, manifest: Manifest, identity: str) -> None:
        super().__init__(root, manifest, identity)
        self._files = files

    def path(self, ref: FileRef) -> Path:
        """See `Bundle.path`."""
        return self._files.path(ref.sha256)

    def read(self, ref: FileRef) -> bytes:
        """See `Bundle.read`. A damaged file is deleted, so that it will be fetched again."""
        try:
            return super().read(ref)
        except BadBundleError:
            self.path(ref).unlink(missing_ok=True)
            raise

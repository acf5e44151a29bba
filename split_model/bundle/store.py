"""Writes bundles atomically, and reads them with a check of every hash."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from split_model.bundle.manifest import FORMAT, Cut, Manifest
from split_model.bundle.records import FileRef
from split_model.bundle.validation import check_manifest
from split_model.errors import BadBundleError, MissingInputError, OutputError, SplitModelError

MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 64 << 20
_READ_BYTES = 1 << 20


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; never blocks, for example on a FIFO.

    Raises:
        BadBundleError: It is a link, a folder, a FIFO, a socket or a device.
        OSError: It is missing or unreadable.

    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise BadBundleError(
            f"{path}: not a regular file", remedy="copy or prepare the bundle again, without links"
        )
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # replaced a moment ago
        file.close()
        raise BadBundleError(
            f"{path}: not a regular file", remedy="copy or prepare the bundle again, without links"
        )
    return file


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a regular file, read in pieces."""
    with open_regular(path) as file:
        return _sha256_of(file)


def _sha256_of(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := file.read(_READ_BYTES):
        digest.update(piece)
    return digest.hexdigest()


def file_ref(root: Path, relative: str) -> FileRef:
    """Describe a file that lies in a bundle folder."""
    path = root / relative
    return FileRef(path=relative, sha256=sha256_of(path), size_bytes=path.stat().st_size)


def manifest_of(raw: bytes, where: str) -> Manifest:
    """Decode and check the bytes of a manifest; ``where`` names them in errors.

    Raises:
        BadBundleError: They are not a manifest, or of another format.

    """
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadBundleError(f"{where}: {error}", remedy="prepare the bundle again") from None
    if manifest.format != FORMAT:
        raise BadBundleError(
            f"{where}: format {manifest.format}, this version reads {FORMAT}", remedy="prepare the bundle again"
        )
    check_manifest(where, manifest)
    return manifest


class Bundle:
    """A bundle folder with a manifest that was read and validated.

    ``identity`` is the hex SHA-256 of the manifest file; it names the bundle on the wire.
    """

    def __init__(self, root: Path, manifest: Manifest, identity: str) -> None:
        self.root = root
        self.manifest = manifest
        self.identity = identity
        self._cuts = {cut.index: cut for cut in manifest.cuts}

    @classmethod
    def open(cls, root: Path, *, check_files: bool = True) -> Bundle:
        """Read the manifest and, unless switched off, check the hash of every file.

        Raises:
            MissingInputError: There is no bundle.
            BadBundleError: It is damaged.

        """
        path = root / MANIFEST
        try:
            with open_regular(path) as file:
                size_bytes = os.fstat(file.fileno()).st_size  # a read of the maximum would allocate the maximum
                raw = file.read(min(size_bytes, _MAX_MANIFEST_BYTES) + 1)
            if len(raw) > _MAX_MANIFEST_BYTES:
                raise BadBundleError(
                    f"{path}: manifest is over {_MAX_MANIFEST_BYTES >> 20} MiB", remedy="prepare the bundle again"
                )
        except (FileNotFoundError, NotADirectoryError):
            raise MissingInputError(
                f"{root}: not a bundle (no {MANIFEST})", remedy="make one with 'split-model prepare'"
            ) from None
        except OSError as error:
            raise MissingInputError(
                f"{path}: {error.strerror or error}", remedy="name a bundle that you can read"
            ) from None
        manifest = manifest_of(raw, str(path))
        bundle = cls(root, manifest, hashlib.sha256(raw).hexdigest())
        if check_files:
            bundle.check_files()
        return bundle

    def check_files(self) -> None:
        """Compare every file with its size and SHA-256 in the manifest."""
        folder = self.root.resolve()
        for ref in self.manifest.files():
            path = self.path(ref)
            try:
                if path.parent.resolve() != (folder / ref.path).parent:
                    raise BadBundleError(
                        f"{path}: behind a link", remedy="copy or prepare the bundle again, without links"
                    )
                with open_regular(path) as file:
                    size = os.fstat(file.fileno()).st_size
                    if size != ref.size_bytes:
                        raise BadBundleError(
                            f"{path}: {size} bytes, the manifest says {ref.size_bytes}",
                            remedy="copy or prepare the bundle again",
                        )
                    found = _sha256_of(file)
            except OSError as error:
                raise BadBundleError(
                    f"{path}: {error.strerror}", remedy="copy or prepare the bundle again"
                ) from None
            if found != ref.sha256:
                raise BadBundleError(
                    f"{path}: SHA-256 differs from the manifest's", remedy="copy or prepare the bundle again"
                )

    def read(self, ref: FileRef) -> bytes:
        """Read a file of this bundle and check exactly these bytes against the manifest.

        Raises:
            BadBundleError: It cannot be read, or is not the file that the manifest names.

        """
        path = self.path(ref)
        try:
            with open_regular(path) as file:
                content = file.read(ref.size_bytes + 1)
        except OSError as error:
            raise BadBundleError(f"{path}: {error.strerror}", remedy="copy or prepare the bundle again") from None
        if hashlib.sha256(content).hexdigest() != ref.sha256:
            raise BadBundleError(
                f"{path}: SHA-256 differs from the manifest's", remedy="copy or prepare the bundle again"
            )
        return content

    def path(self, ref: FileRef) -> Path:
        """Path of a file of this bundle."""
        return self.root / ref.path

    def cut(self, index: int) -> Cut:
        """The offered cut at an op index; `KeyError` if the bundle does not offer it."""
        return self._cuts[index]

    def only(self, indices: Collection[int]) -> Bundle:
        """The same bundle with the same identity, restricted to these cuts."""
        cuts = tuple(cut for cut in self.manifest.cuts if cut.index in indices)
        return Bundle(self.root, msgspec.structs.replace(self.manifest, cuts=cuts), self.identity)

    @property
    def local(self) -> int:
        """The split point that runs everything on the device."""
        return self.manifest.ops


@contextmanager
def writing(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A scratch folder beside ``target`` that replaces it if the block succeeds, else is removed."""
    if target.exists() and not replace:
        raise OutputError(f"{target}: exists already", remedy="remove it, choose another name, or pass --force")
    try:
        _refuse_what_is_no_bundle(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        scratch.chmod(0o755)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{target}: {error.strerror}", remedy="choose a folder you can write to") from None
    try:
        yield scratch
        _put(scratch, target)
    except SplitModelError:  # some of our errors are OSErrors too, with their own text
        raise
    except OSError as error:
        raise OutputError(
            f"{target}: {error.strerror or error}", remedy="make room, or choose another folder"
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _refuse_what_is_no_bundle(target: Path) -> None:
    """Refuse to replace anything but a bundle; a link is refused, not followed."""
    replaceable = not target.exists() or (
        target.is_dir() and ((target / MANIFEST).is_file() or not any(target.iterdir()))
    )
    if target.is_symlink() or not replaceable:
        raise OutputError(f"{target}: is not a bundle, so it is not replaced", remedy="choose another name")


def _put(scratch: Path, target: Path) -> None:
    """Put one folder in the other's place. The old one is removed last, and restored if this fails."""
    before = scratch.with_name(f"{scratch.name}.before")
    if not target.exists():
        scratch.rename(target)
        return
    target.rename(before)
    try:
        scratch.rename(target)
    except OSError:
        before.rename(target)
        raise
    shutil.rmtree(before, ignore_errors=True)


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write the manifest, indented; the same content gives the same bytes."""
    (root / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")

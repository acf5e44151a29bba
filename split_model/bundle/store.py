"""Bundles on disk: written whole or not at all, checked by hash when opened."""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import msgspec

from split_model.bundle.manifest import FORMAT, MAX_GROUPS, MAX_WORDS, Cut, FileRef, Manifest
from split_model.errors import BadBundleError, MissingInputError, OutputError, SplitModelError

MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 64 << 20
_READ_BYTES = 1 << 20


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def file_ref(root: Path, relative: str) -> FileRef:
    """Describe a file that lies in a bundle folder."""
    path = root / relative
    return FileRef(path=relative, sha256=sha256_of(path), size_bytes=path.stat().st_size)


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
        """Read the manifest and, unless told otherwise, check the hash of every file it names.

        Raises `MissingInputError` where there is no bundle and `BadBundleError` where it is damaged.
        """
        path = root / MANIFEST
        try:
            if path.stat().st_size > _MAX_MANIFEST_BYTES:
                raise BadBundleError(f"{path}: manifest is over {_MAX_MANIFEST_BYTES >> 20} MiB; prepare again")
            raw = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise MissingInputError(
                f"{root}: not a bundle (no {MANIFEST}); make one with 'split-model prepare'"
            ) from None
        except OSError as error:
            raise MissingInputError(f"{path}: {error.strerror or error}") from None
        try:
            manifest = msgspec.json.decode(raw, type=Manifest)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadBundleError(f"{path}: {error}; prepare the bundle again") from None
        if manifest.format != FORMAT:
            raise BadBundleError(
                f"{path}: format {manifest.format}, this version reads {FORMAT}; prepare the bundle again"
            )
        _check_manifest(path, manifest)
        bundle = cls(root, manifest, hashlib.sha256(raw).hexdigest())
        if check_files:
            bundle.check_files()
        return bundle

    def check_files(self) -> None:
        """Compare every file with its size and SHA-256 in the manifest."""
        for ref in self.manifest.files():
            path = self.path(ref)
            try:
                size = path.stat().st_size
                if size != ref.size_bytes:
                    raise BadBundleError(
                        f"{path}: {size} bytes, the manifest says {ref.size_bytes}; copy or prepare it again"
                    )
                found = sha256_of(path)
            except OSError as error:
                raise BadBundleError(f"{path}: {error.strerror}; copy or prepare the bundle again") from None
            if found != ref.sha256:
                raise BadBundleError(
                    f"{path}: SHA-256 differs from the manifest's; copy or prepare the bundle again"
                )

    def path(self, ref: FileRef) -> Path:
        """Where a file of this bundle lies."""
        return self.root / ref.path

    def cut(self, index: int) -> Cut:
        """The offered cut at an op index; `KeyError` where the bundle does not offer it."""
        return self._cuts[index]

    def only(self, indices: Collection[int]) -> Bundle:
        """The same bundle, of the same identity, as if it offered these cuts only."""
        cuts = tuple(cut for cut in self.manifest.cuts if cut.index in indices)
        return Bundle(self.root, msgspec.structs.replace(self.manifest, cuts=cuts), self.identity)

    @property
    def local(self) -> int:
        """The split point that runs everything on the device."""
        return self.manifest.ops


def _check_manifest(path: Path, manifest: Manifest) -> None:
    """What the types cannot say: paths stay inside the bundle, cuts are in order, sizes agree."""
    for ref in manifest.files():
        relative = PurePosixPath(ref.path)
        if relative.is_absolute() or ".." in relative.parts or not relative.parts:
            raise BadBundleError(f"{path}: file {ref.path!r} lies outside the bundle; prepare it again")
    indices = [cut.index for cut in manifest.cuts]
    if indices != sorted(set(indices)) or any(not 0 <= index < manifest.ops for index in indices):
        raise BadBundleError(f"{path}: cuts {indices} are not ascending in 0..{manifest.ops - 1}; prepare it again")
    for cut in manifest.cuts:
        _check_cut(f"{path}: cut {cut.index}", cut)
    check_answer_schema(str(path), manifest)
    if manifest.reference is not None and len(manifest.reference.tolerance) != len(manifest.outputs):
        raise BadBundleError(f"{path}: the reference is not one tolerance an output; prepare the bundle again")


def check_answer_schema(where: str, manifest: Manifest) -> None:
    """An answer schema has an entry for each output, of as many values; `BadBundleError` otherwise."""
    if not manifest.answer_schema:
        return
    sizes = [math.prod(entry.shape) for entry in manifest.answer_schema]
    expected = [output.size for output in manifest.outputs]
    if sizes != expected:
        raise BadBundleError(f"{where}: the answer schema has outputs of {sizes} values, the model {expected}")
    weights = [entry.weight for entry in manifest.answer_schema]
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise BadBundleError(f"{where}: the answer schema has weights {weights}; they are 0 or more, not all 0")


def _check_cut(where: str, cut: Cut) -> None:
    if (cut.head is None) != (cut.index == 0):
        raise BadBundleError(f"{where}: only cut 0 has no head; prepare the bundle again")
    if not cut.tensors or any(not t.shape or min(t.shape) < 1 for t in cut.tensors):
        raise BadBundleError(f"{where}: needs live tensors with positive shapes; prepare the bundle again")
    _check_extras(where, cut)
    if cut.calibration is None:
        return
    if len(cut.calibration) != len(cut.tensors):
        raise BadBundleError(f"{where}: calibration for {len(cut.calibration)} tensors of {len(cut.tensors)}")
    for tensor, channels in zip(cut.tensors, cut.calibration, strict=True):
        columns = (channels.clip_low, channels.clip_high, channels.rank, channels.weight)
        if any(len(column) != tensor.shape[-1] for column in columns):
            raise BadBundleError(f"{where}: calibration of {tensor.name!r} is not one value a channel")
        pairs = zip(channels.clip_low, channels.clip_high, strict=True)
        if not all(low < high for low, high in pairs):
            raise BadBundleError(f"{where}: an empty clip range in {tensor.name!r}; calibrate it again")


def _check_extras(where: str, cut: Cut) -> None:
    """Codebooks and noise-aware tails are told apart by what names them on the wire."""
    names = [(book.words, book.groups) for book in cut.codebooks]
    epsilons = [noisy.epsilon for noisy in cut.noise_tails]
    if len(set(names)) != len(names) or len(set(epsilons)) != len(epsilons):
        raise BadBundleError(f"{where}: two codebooks or noise-aware tails for the same release; prepare it again")
    for words, groups in names:
        if not (2 <= words <= MAX_WORDS and 1 <= groups <= MAX_GROUPS):
            raise BadBundleError(f"{where}: a codebook of {words} words and {groups} groups; prepare it again")
    if not all(0 < epsilon < math.inf for epsilon in epsilons):
        raise BadBundleError(f"{where}: a noise-aware tail without a finite epsilon; prepare it again")


@contextmanager
def writing(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A scratch folder beside ``target`` that takes its place when the block ends well, and is gone otherwise."""
    if target.exists() and not replace:
        raise OutputError(f"{target}: exists already; remove it, choose another name, or pass --force")
    try:
        _refuse_what_is_no_bundle(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        scratch.chmod(0o755)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{target}: {error.strerror}; choose a folder you can write to") from None
    try:
        yield scratch
        _put(scratch, target)
    except SplitModelError:  # some of ours are OSErrors too, and say what is wrong by themselves
        raise
    except OSError as error:
        raise OutputError(f"{target}: {error.strerror or error}; make room, or choose another folder") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _refuse_what_is_no_bundle(target: Path) -> None:
    """A link is not followed: what is behind it is not what was named."""
    replaceable = not target.exists() or (
        target.is_dir() and ((target / MANIFEST).is_file() or not any(target.iterdir()))
    )
    if target.is_symlink() or not replaceable:
        raise OutputError(f"{target}: is not a bundle, so it is not replaced; choose another name")


def _put(scratch: Path, target: Path) -> None:
    """The one in the other's place. What was there goes last: it is back where this fails."""
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
    """Write the manifest, indented, the same bytes for the same content."""
    (root / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")

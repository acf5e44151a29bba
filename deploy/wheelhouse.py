"""Provides the wheels for a target: our own, built from this checkout, and the locked ones.

Both are stored in ``build/deploy`` and made only if they are missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.errors import DeployError, MissingError
from deploy.locks import ROOT, download_options, lock_path, read_lock
from deploy.target import Target

CACHE = ROOT / "build" / "deploy"
PACKAGES = ("split_model", "edge_runtime", "cloud_server")
#: The files that the wheel is made from, besides the packages.
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
#: Time stamp of every file in our wheel: a wheel's hash depends on its content, not on when it was made.
_EPOCH_S = 1577836800
_TIMEOUT_S = 1800


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def wheels_for(target: Target, backend: str, extras: Iterable[str] = ()) -> list[Path]:
    """All wheels of the target: the locked ones (with pip's), those of ``extras``, and our own."""
    locks = [lock_path(target, backend), *(lock_path(target, backend, extra) for extra in sorted(extras))]
    with _locked():
        return [own_wheel(), *(wheel for lock in locks for wheel in _download(target, lock))]


@contextmanager
def _locked() -> Iterator[None]:
    """Lock, so that only one thread or process makes wheels at a time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sources() -> list[Path]:
    files = [ROOT / name for name in SOURCES]
    for package in PACKAGES:
        files += (
            path
            for path in (ROOT / package).rglob("*")
            if path.suffix in (".py", ".html", ".css", ".js") or path.name == "py.typed"
        )
    return sorted(files)


def own_wheel() -> Path:
    """Build our wheel in a separate folder, so that no leftover file of the checkout gets in."""
    files = _sources()
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(ROOT)} {sha256_of(path)}\n".encode())
    folder = CACHE / "own" / digest.hexdigest()[:16]
    built = list(folder.glob("*.whl"))
    if built:
        return built[0]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        copy, made = Path(scratch) / "source", Path(scratch) / "wheel"
        for path in files:
            to = copy / path.relative_to(ROOT)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(_EPOCH_S)}
        _pip(["wheel", "--no-deps", f"--wheel-dir={made}", str(copy)], "our own wheel was not built", environment)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return next(folder.glob("*.whl"))


def _download(target: Target, lock: Path) -> list[Path]:
    """Download the locked wheels by their hashes, which pip checks."""
    folder = CACHE / "wheels"
    folder.mkdir(exist_ok=True)
    wanted = {sha256 for _, sha256 in read_lock(lock).values()}
    there = {path.parent.name: path for path in folder.glob("*/*.whl")}
    if wanted - there.keys():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            options = ["--no-deps", "--require-hashes", f"--requirement={lock}", f"--dest={scratch}"]
            _pip(["download", *download_options(target), *options], f"the wheels for {target.name} are unavailable")
            for path in Path(scratch).glob("*.whl"):
                home = folder / sha256_of(path)
                home.mkdir(exist_ok=True)
                path.replace(home / path.name)
                there[home.name] = home / path.name
    return [there[sha256] for sha256 in sorted(wanted)]


def _pip(arguments: Sequence[str], failure: str, environment: dict[str, str] | None = None) -> None:
    command = [*_pip_command(), *arguments, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, env=environment or {**os.environ}
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
        raise DeployError(f"{failure}: {' '.join(' '.join(lines).split())[:600]}")


def _pip_command() -> list[str]:
    """The pip of this interpreter or, if it has none (as Debian's), one in our own environment."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
        return [sys.executable, "-m", "pip"]
    folder = CACHE / "pip"
    python = folder / "bin" / "python"
    if not python.exists():
        made = subprocess.run(
            [sys.executable, "-m", "venv", str(folder)], capture_output=True, text=True, check=False
        )
        if made.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            raise MissingError(
                "this machine's Python has neither pip nor venv", remedy="install python3-pip or python3-venv"
            )
    return [str(python), "-m", "pip"]

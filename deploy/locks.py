"""Makes and reads the lock files in ``deploy/locks``: for each target the exact wheels with their hashes.

pip evaluates a dependency's markers for the interpreter it runs in, not for the one it downloads for. So the wheels
of a board are resolved here, once, in the target's own environment, and a deployment downloads exactly these:
``pip download --no-deps --require-hashes``. The versions are those of ``constraints.txt``. To make the files again
after a change there (in the development environment, for it needs ``packaging``). A folder with the name of an
extra has its additional wheels::

    python -m deploy.locks
"""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.errors import UnfitError
from deploy.target import ARCHITECTURES, PYTHONS, Python, Target

if TYPE_CHECKING:
    from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy" / "locks"
#: For each backend: the machine's extras of setup.cfg, the constraints, and the newest Python 3 with wheels.
BACKENDS = {
    "litert": (("litert", "images"), "constraints.txt", 14),
    "legacy": (("legacy", "images"), "constraints-legacy.txt", 11),
}
#: The choices of ``--with NAME``: extras of setup.cfg of the same name.
BOARD_EXTRAS = ("camera", "heif")
SERVER_EXTRAS = ("web",)
EXTRAS = (*BOARD_EXTRAS, *SERVER_EXTRAS)
#: System packages of an extra, besides its wheels: GStreamer, and a Raspberry Pi's camera.
SYSTEM_PACKAGES = {
    "camera": (
        "python3-gi",
        "gir1.2-gst-plugins-base-1.0",
        "gstreamer1.0-plugins-base",
        "gstreamer1.0-plugins-good",
        "gstreamer1.0-plugins-bad",
        "gstreamer1.0-libav",
        "python3-picamera2",
    )
}
#: Wheels are chosen for systems at least as new as this: Debian 11 has 2.31, Ubuntu 22.04 has 2.35.
_GLIBC = {"litert": (2, 31), "legacy": (2, 35)}
_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+) --hash=sha256:(?P<sha256>[0-9a-f]{64})")


def lock_path(target: Target, backend: str, extra: str = "") -> Path:
    """Path of the lock file for a target, or of an ``extra``'s; `UnfitError` if there is none."""
    path = FOLDER / extra / f"{backend}-{target.name}.txt"
    if not path.is_file():
        raise UnfitError(
            f"there is no lock for {target.name} with the backend {backend}", remedy=f"choose one of {_known()}"
        )
    return path


def _known() -> str:
    return ", ".join(sorted(path.stem for path in FOLDER.glob("*.txt")))


def read_lock(path: Path) -> dict[str, tuple[str, str]]:
    """Read version and wheel's SHA-256 of each distribution, by name."""
    return {match["name"]: (match["version"], match["sha256"]) for match in _LINE.finditer(path.read_text())}


def targets() -> Iterator[tuple[str, Target]]:
    """All backends and targets with a lock file."""
    for backend, (_, _, newest) in BACKENDS.items():
        for version in PYTHONS:
            if version[1] <= newest:
                for architecture in ARCHITECTURES:
                    yield backend, Target(architecture, Python("", version, 64, venv=True), _GLIBC[backend])


def _environment(target: Target) -> dict[str, str]:
    major, minor = target.python.version
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{major}.{minor}.0",
        "os_name": "posix",
        "platform_machine": target.architecture,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{major}.{minor}.0",
        "python_version": f"{major}.{minor}",
        "sys_platform": "linux",
        "extra": "",
    }


def _wanted(extras: tuple[str, ...]) -> Iterator[str]:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    texts = [config["options"]["install_requires"]]
    texts += [config["options.extras_require"][extra] for extra in extras]
    for text in texts:
        yield from (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    yield "pip"  # a board's own may be too old to know today's platform tags


def _pins(path: Path, environment: dict[str, str]) -> dict[str, str]:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins: dict[str, str] = {}
    for line in path.read_text().splitlines():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            pins[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return pins


def download_options(target: Target) -> list[str]:
    """Pip's options to choose wheels for a target instead of its own interpreter."""
    options = ["--only-binary=:all:", "--implementation=cp"]
    options.append(f"--python-version={target.python.version[0]}.{target.python.version[1]}")
    return [*options, *(f"--platform={tag}" for tag in target.platforms)]


def _found(requirements: list[str], target: Target, scratch: Path) -> list[dict[str, Any]]:
    """The distributions that pip would install for these requirements, without dependencies."""
    report = scratch / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed",
               f"--target={scratch}", f"--report={report}", *download_options(target), *requirements]  # fmt: skip
    subprocess.run(command, check=True)
    installs: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    return installs


def resolve(target: Target, backend: str, *more: str) -> dict[str, tuple[str, str]]:
    """Resolve version and SHA-256 of every distribution for a kind of machine, with ``more`` extras, by name."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    extras, constraints, _ = BACKENDS[backend]
    environment = _environment(target)
    pins = _pins(ROOT / constraints, environment)
    settled: dict[str, tuple[str, str]] = {}
    waiting = [Requirement(text) for text in _wanted((*extras, *more))]
    while waiting:
        new: dict[str, Requirement] = {}
        for requirement in waiting:
            name = canonicalize_name(requirement.name)
            if name not in settled and (requirement.marker is None or requirement.marker.evaluate(environment)):
                new[name] = requirement
        missing = sorted(set(new) - set(pins))
        if missing:
            raise SystemExit(f"{target.name}: {constraints} does not pin {', '.join(missing)}")
        waiting = []
        with tempfile.TemporaryDirectory() as scratch:
            texts = [f"{name}=={pins[name]}" for name in new]
            for found in _found(texts, target, Path(scratch)) if texts else ():
                metadata = found["metadata"]
                sha256 = found["download_info"]["archive_info"]["hashes"]["sha256"]
                settled[canonicalize_name(metadata["name"])] = (metadata["version"], sha256)
                waiting += [Requirement(text) for text in metadata.get("requires_dist", [])]
    return settled


def main() -> None:
    """Write every lock file again."""
    FOLDER.mkdir(exist_ok=True)
    for backend, target in targets():
        base = resolve(target, backend)
        _write(target, backend, base)
        for extra in EXTRAS:
            found = resolve(target, backend, extra)
            _write(target, backend, {name: found[name] for name in found.keys() - base.keys()}, extra)


def _write(target: Target, backend: str, settled: dict[str, tuple[str, str]], extra: str = "") -> None:
    what = f"{target.name}, backend {backend}{extra and f', extra {extra}'}, for glibc 2.{target.glibc[1]}"
    lines = [f"# {what}; made by 'python -m deploy.locks'"]
    lines += [f"{name}=={version} --hash=sha256:{sha256}" for name, (version, sha256) in sorted(settled.items())]
    path = FOLDER / extra / f"{backend}-{target.name}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    print(f"{path.relative_to(FOLDER)}: {len(settled)} wheels", flush=True)


if __name__ == "__main__":
    main()

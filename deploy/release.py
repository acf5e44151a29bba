"""A release: all files of one version of the program on a machine, named by their content.

Its manifest is a text of lines ``KIND SHA256 PATH``, from which the machine installs. The release's name is the
manifest's hash: the same content is the same release, and installing it again changes nothing.

    program   edge-runtime           python   3.11 /usr/bin/python3.11
    with      camera                 an extra; the next deployment keeps it
    wheel     SHA256 numpy-....whl   in the release's Python environment
    bundle    SHA256 bundles/NAME/.. under the release's folder
    system    SHA256 etc/systemd/... placed in the machine's own folders
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.bundles import BundleFiles
from deploy.errors import UnfitError, UsageError
from deploy.locks import ROOT
from deploy.target import Target
from deploy.wheelhouse import sha256_of

_KINDS = ("wheel", "bundle", "system")
#: Size of an installed wheel over its own size, compiled bytecode included.
_UNPACKED = 4


@dataclass(frozen=True, order=True)
class Part:
    """One file of a release; ``source``: its path on this workstation, None if only the machine has it."""

    kind: str
    path: str
    sha256: str
    source: Path | None = None

    @property
    def size_bytes(self) -> int:
        return self.source.stat().st_size if self.source else 0


@dataclass(frozen=True)
class Release:
    """A release, made by `make_release`."""

    program: str
    python: str
    parts: tuple[Part, ...]
    extras: tuple[str, ...] = ()

    @property
    def manifest(self) -> str:
        lines = [f"program {self.program}", f"python {self.python}", f"environment {self.environment}"]
        lines += [f"with {extra}" for extra in sorted(self.extras)]
        lines += [f"{part.kind} {part.sha256} {part.path}" for part in sorted(self.parts)]
        return "\n".join(lines) + "\n"

    @property
    def name(self) -> str:
        return hashlib.sha256(self.manifest.encode()).hexdigest()[:16]

    @property
    def environment(self) -> str:
        """The name of the Python environment: releases that differ only in their bundle share it."""
        wheels = sorted(part.sha256 for part in self.parts if part.kind == "wheel")
        return hashlib.sha256("\n".join([self.python, *wheels]).encode()).hexdigest()[:16]

    def missing(self, *, stored: frozenset[str], environments: frozenset[str]) -> list[Part]:
        """The files to send to a machine that has these files and these environments already."""
        needed = [p for p in self.parts if p.kind != "wheel" or self.environment not in environments]
        by_hash = {part.sha256: part for part in needed if part.sha256 not in stored}
        return sorted(by_hash.values())

    def disk_kib(self, missing: Iterable[Part]) -> int:
        """Approximate disk space for the installation in KiB."""
        total = sum(part.size_bytes * (1 + _UNPACKED * (part.kind == "wheel")) for part in missing)
        return total // 1024 + 16 * 1024


def system_parts(program: str) -> Iterator[Part]:
    """Units and other files of the program for the machine's own folders."""
    for folder, name, place in (
        ("systemd", f"{program}.service", "etc/systemd/system"),
        ("sysusers.d", f"{program}.conf", "etc/sysusers.d"),
        ("completions", program, "etc/bash_completion.d"),
    ):
        path = ROOT / "deploy" / folder / name
        if path.is_file():
            yield Part("system", f"{place}/{name}", sha256_of(path), path)


def bundle_parts(bundles: Iterable[BundleFiles], *, one: bool) -> Iterator[Part]:
    """The files of bundles: of ``one`` in ``bundle/``, of several each in a folder of its own in ``bundles/``."""
    for bundle in bundles:
        folder = "bundle" if one else f"bundles/{bundle.name}-{bundle.identity[:12]}"
        for relative, sha256 in bundle.files:
            yield Part("bundle", f"{folder}/{relative}", sha256, bundle.root / relative)


def hosted_parts(manifest: str) -> Iterator[Part]:
    """The bundles of a machine's present release, from its manifest."""
    for line in manifest.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "bundle":
            sha256, _, path = rest.partition(" ")
            yield Part("bundle", path, sha256)


def extras_of(manifest: str) -> frozenset[str]:
    """The extras of a machine's present release, from its manifest."""
    return frozenset(line.partition(" ")[2] for line in manifest.splitlines() if line.startswith("with "))


def make_release(
    program: str, target: Target, wheels: Iterable[Path], parts: Iterable[Part], *, extras: Iterable[str] = ()
) -> Release:
    """Make a release; refuses paths that a shell script could misread."""
    python = f"{target.python.version[0]}.{target.python.version[1]} {target.python.path}"
    wheel_parts = [Part("wheel", path.name, sha256_of(path), path) for path in wheels]
    _refuse_new_glibc(target, wheel_parts)
    by_path: dict[str, Part] = {}
    for part in (*wheel_parts, *system_parts(program), *parts):
        plain = part.path.replace("/", "").replace("-", "").replace("_", "").replace(".", "").replace("+", "")
        if not plain.isalnum() or not plain.isascii() or ".." in part.path.split("/"):
            raise UsageError(
                f"{part.path}: a name that cannot be sent",
                remedy="use letters, digits, dot, dash and underscore in a bundle's names",
            )
        known = by_path.get(part.path)
        by_path[part.path] = part if known is None or known.source is None else known
    return Release(program, python, tuple(sorted(by_path.values())), tuple(sorted(extras)))


def _refuse_new_glibc(target: Target, wheels: Iterable[Part]) -> None:
    fitting = {*target.platforms, "any"}
    for wheel in wheels:
        tags = wheel.path.removesuffix(".whl").rsplit("-", 1)[1].split(".")
        if fitting.isdisjoint(tags):
            glibc = ".".join(map(str, target.glibc))
            raise UnfitError(
                f"its glibc is {glibc}, and {wheel.path} needs a newer one", remedy="use a newer system"
            )

"""Decides from a machine's facts whether the program can run there, and which wheels fit. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from deploy.errors import NotAllowedError, UnfitError

PYTHONS = ((3, 10), (3, 11), (3, 12), (3, 13), (3, 14))
ARCHITECTURES = ("x86_64", "aarch64")
#: Seconds of a clock's error above which it is reported; nothing here depends on the clock.
CLOCK_OFF_S = 120
_OLD_MANYLINUX = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_OLDEST = {"x86_64": 5, "aarch64": 17}


@dataclass(frozen=True)
class Python:
    """One interpreter of the board; ``bits``: its word size, which may be 32 under a 64-bit kernel."""

    path: str
    version: tuple[int, int]
    bits: int
    venv: bool


@dataclass(frozen=True)
class Facts:
    """The output of step ``facts``: the machine, and the state of earlier deployments.

    ``clock_s``: its Unix time. ``disk_kib``: free disk space at the place of installation. ``stored``: SHA-256 of
    the files it has. ``manifest``: of the release in use. ``configured``: it has a config. ``offered``: SHA-256, by
    path, of the configs that we last offered. ``unfinished``: a switch is under way, or was interrupted.
    ``public_key``, ``earlier_key``, ``next_key``: its own keys, at the stages of a rotation.
    """

    machine: str = ""
    hostname: str = ""
    glibc: tuple[int, int] | None = None
    pythons: tuple[Python, ...] = ()
    clock_s: float = 0.0
    disk_kib: int = 0
    systemd: bool = False
    root: bool = False
    release: str = ""
    active: str = ""
    unfinished: bool = False
    public_key: str = ""
    earlier_key: str = ""
    next_key: str = ""
    stored: frozenset[str] = frozenset()
    environments: frozenset[str] = frozenset()
    manifest: str = ""
    configured: bool = False
    offered: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """The target of wheels, for example ``aarch64``, Python 3.11 and glibc 2.36."""

    architecture: str
    python: Python
    glibc: tuple[int, int]

    @property
    def name(self) -> str:
        """The name in lock files, as ``cp311-aarch64``."""
        major, minor = self.python.version
        return f"cp{major}{minor}-{self.architecture}"

    @property
    def platforms(self) -> list[str]:
        """The platform tags for pip to choose from, best first."""
        return platforms(self.architecture, self.glibc)


def platforms(architecture: str, glibc: tuple[int, int]) -> list[str]:
    """All manylinux tags for a glibc of this version, newest first."""
    tags = []
    for minor in range(glibc[1], _OLDEST[architecture] - 1, -1):
        tags.append(f"manylinux_2_{minor}_{architecture}")
        if minor in _OLD_MANYLINUX:
            tags.append(f"{_OLD_MANYLINUX[minor]}_{architecture}")
    return tags


def read_facts(text: str) -> Facts:
    """Parse the output of step ``facts``: lines ``KEY VALUE``, some keys repeated; unknown keys are ignored."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value.strip())

    def one(key: str) -> str:
        return found.get(key, [""])[0]

    return Facts(
        machine=one("machine"),
        hostname=one("hostname"),
        glibc=_version(one("glibc")),
        pythons=tuple(_pythons(found.get("python", []))),
        clock_s=float(one("clock_s") or 0),
        disk_kib=int(one("disk_kib") or 0),
        systemd=one("init") == "systemd",
        root=one("root") == "yes",
        release=one("release"),
        active=one("active"),
        unfinished=one("unfinished") == "yes",
        public_key=one("public_key"),
        earlier_key=one("public_key.old"),
        next_key=one("public_key.next"),
        stored=frozenset(found.get("stored", [])),
        environments=frozenset(found.get("environment", [])),
        manifest="".join(f"{line}\n" for line in found.get("manifest", [])),
        configured=one("configured") == "yes",
        offered={path: sha for sha, _, path in (line.partition(" ") for line in found.get("offered", []))},
    )


def _version(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d+)\.(\d+).*", text)
    return (int(match[1]), int(match[2])) if match else None


def _pythons(lines: Iterable[str]) -> Iterable[Python]:
    for line in lines:
        path, version, bits, venv = line.split(" ")
        known = _version(version)
        if known is not None:
            yield Python(path, known, int(bits), venv == "venv")


def choose_target(facts: Facts) -> Target:
    """Choose the target; `UnfitError` or `NotAllowedError` if the program cannot run or be installed there."""
    _refuse_architecture(facts)
    if facts.glibc is None:
        raise UnfitError(
            "its C library is not glibc, and there are no wheels for another", remedy="use a Debian-like system"
        )
    if not facts.systemd:
        raise UnfitError("it does not run systemd, which the service needs", remedy="use a system with systemd")
    if not facts.root:
        raise NotAllowedError(
            "'sudo -n' is refused",
            remedy="let this user run 'sudo sh' without a password, or deploy as root (root@HOST)",
        )
    return Target(facts.machine, _choose_python(facts.pythons), facts.glibc)


def _refuse_architecture(facts: Facts) -> None:
    narrow = facts.machine in ARCHITECTURES and facts.pythons and all(p.bits == 32 for p in facts.pythons)
    if facts.machine.startswith("arm") or facts.machine in ("i686", "i586") or narrow:
        what = f"{facts.machine} with a 32-bit system" if narrow else f"{facts.machine} is a 32-bit system"
        raise UnfitError(
            f"{what}: there are no 32-bit wheels of ai-edge-litert and others of our dependencies",
            remedy="install a 64-bit system (on a Raspberry Pi 3 or newer: 64-bit Raspberry Pi OS)",
        )
    if facts.machine not in ARCHITECTURES:
        raise UnfitError(
            f"its processor is {facts.machine or 'unknown'}, for which there are no wheels",
            remedy="use x86_64 or aarch64",
        )


def _choose_python(pythons: tuple[Python, ...]) -> Python:
    wide = [python for python in pythons if python.bits == 64]
    known = [python for python in wide if python.version in PYTHONS]
    if not known:
        there = ", ".join(".".join(map(str, python.version)) for python in wide) or "none"
        raise UnfitError(
            f"it needs Python 3.10 to 3.14 and has {there}", remedy="install python3 there, or a newer system"
        )
    fit = [python for python in known if python.venv]
    if not fit:
        raise UnfitError(f"{known[0].path} has no module venv", remedy="run 'sudo apt install python3-venv' there")
    return max(fit, key=lambda python: python.version)


def clock_warning(facts: Facts, *, now_s: float) -> str:
    """A warning about a wrong clock, or an empty text."""
    off_s = facts.clock_s - now_s
    if abs(off_s) <= CLOCK_OFF_S:
        return ""
    return f"its clock is {abs(off_s):.0f} s {'ahead' if off_s > 0 else 'behind'}; log times will be wrong"

"""The findings of ``doctor``: one line for each check, with a remedy if it is not ok."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import msgspec

from split_model.errors import SplitModelError
from split_model.service.terminal_text import columns, fold, size

Level = Literal["ok", "warn", "fail"]

_MIN_FREE_BYTES = {"fail": 8 << 20, "warn": 200 << 20}
_STA_UNSYNC = 0x40
#: The kernel's struct timex on 64-bit systems: minimum size, and the offset of its status.
_TIMEX_BYTES, _TIMEX_STATUS = 256, 40
#: The project is younger than this.
_FIRST_UNIX_S = 1_767_225_600  # 2026-01-01


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One finding. ``remedy``: the fix, empty if none is needed. ``exit_code``: of a failure."""

    about: str
    level: Level
    text: str
    remedy: str = ""
    exit_code: int = 0


def good(about: str, text: str) -> Finding:
    """Make a finding without a fault."""
    return Finding(about=about, level="ok", text=text)


def warning(about: str, text: str, remedy: str) -> Finding:
    """Make a finding for a program that works, but not as well as it could."""
    return Finding(about=about, level="warn", text=text, remedy=remedy)


def failure(about: str, text: str, remedy: str, *, exit_code: int = os.EX_UNAVAILABLE) -> Finding:
    """Make a finding for a program that cannot work."""
    return Finding(about=about, level="fail", text=text, remedy=remedy, exit_code=exit_code)


def attempt(about: str, look: Callable[[], str]) -> Finding:
    """Run a check: ok with the text that ``look`` returns; a `SplitModelError` becomes a failure.

    A file that this user may not access is a failure too, and does not end the doctor.
    """
    try:
        return good(about, look())
    except SplitModelError as error:
        return failed(about, error)
    except PermissionError as error:
        text = f"{error.filename}: {error.strerror}"
        return failure(about, text, "let the program's user read that folder", exit_code=os.EX_NOPERM)


def failed(about: str, error: SplitModelError, *, remedy: str = "") -> Finding:
    """Make a failure of an error. ``remedy`` replaces the error's own."""
    return failure(about, error.problem, remedy or error.remedy, exit_code=error.exit_code)


def of_disk(folder: Path, *, key: str, user: str = "", as_root: str = "run doctor with sudo") -> Finding:
    """Check that a folder of the program is writable and has room.

    Args:
        folder: The folder, made or not yet.
        key: The config key of its path.
        user: The program's user if this process runs as another one; the permissions are then not judged.
        as_root: How to run the check with the program's permissions.

    """
    place = next((path for path in (folder, *folder.parents) if os.path.exists(path)), Path("/"))  # noqa: PTH110
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        mount = _mount_point(place)
        return failure(
            "disk",
            f"{folder}: the file system at {mount} is read-only, so nothing can be stored there",
            f"look for its fault with 'dmesg', then 'mount -o remount,rw {mount}' and restart the program; or set "
            f"{key} elsewhere",
            exit_code=os.EX_CANTCREAT,
        )
    free = shutil.disk_usage(place).free
    text = f"{folder}: {size(free)} free"
    if free < _MIN_FREE_BYTES["fail"]:
        return failure("disk", text, "make room: the ledger cannot be made, and answers may be lost",
                       exit_code=os.EX_CANTCREAT)  # fmt: skip
    if user:
        return warning("disk", f"{text}; not checked: whether {user} may write there", as_root)
    if not os.access(place, os.W_OK | os.X_OK):
        return failure("disk", f"{folder}: this user may not write in {place}",
                       f"give that folder to the program's user, or set {key} elsewhere",
                       exit_code=os.EX_CANTCREAT)  # fmt: skip
    if free < _MIN_FREE_BYTES["warn"]:
        return warning("disk", text, "make room")
    return good("disk", text)


def _mount_point(place: Path) -> Path:
    """The mount point of a folder's file system. Not found by device numbers, which bind mounts share."""
    folder = place.resolve()
    mounts = {
        Path(line.split()[4].encode().decode("unicode_escape"))  # blanks in it are octal escapes
        for line in Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    }
    return next((path for path in (folder, *folder.parents) if path in mounts), Path("/"))


def of_clock(*, now_unix_s: float | None = None, synchronised: Callable[[], bool | None] | None = None) -> Finding:
    """Check the wall clock; only logs and people use it, so a wrong one is a warning."""
    now_unix_s = time.time() if now_unix_s is None else now_unix_s
    told = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_unix_s))
    remedy = "set it, or run systemd-timesyncd or chrony; logs have wrong times until then"
    if now_unix_s < _FIRST_UNIX_S:
        return warning("clock", f"{told} is in the past", remedy)
    state = (synchronised or clock_synchronised)()
    if state is False:
        return warning("clock", f"{told}, not synchronised", remedy)
    return good("clock", told if state is None else f"{told}, synchronised")


def clock_synchronised() -> bool | None:
    """Whether the kernel reports a synchronised clock (adjtimex, read only); None if unknown."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        if ctypes.CDLL(None).adjtimex(buffer) < 0:
            return None
    except (OSError, AttributeError):
        return None
    (status,) = struct.unpack_from("i", buffer, _TIMEX_STATUS)
    return not status & _STA_UNSYNC


def show(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Print each finding as soon as it is known; returns the exit code of the first failure, else 0."""
    code = 0
    collected = []
    for finding in findings:
        code = code or (finding.exit_code if finding.level == "fail" else 0)
        if as_json:
            collected.append(finding)
            continue
        mark = finding.level if finding.level == "ok" else finding.level.upper()
        lines = [f"{mark:<5} {finding.about:<9} {finding.text}"]
        if finding.remedy:
            lines.append(f"{'':<15} -> {finding.remedy}")
        width = columns(sys.stdout)
        print(
            "\n".join(fold(line, width, indent=indent) for line, indent in zip(lines, (16, 19), strict=False)),
            flush=True,
        )
    if as_json:
        print(msgspec.json.encode(collected).decode())
    return code

"""What ``doctor`` finds: one line for each thing that was looked at, with what to do where it is not well."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import msgspec

from split_model.errors import SplitModelError

Level = Literal["ok", "warn", "fail"]

_MIN_FREE_BYTES = {"fail": 8 << 20, "warn": 200 << 20}
_STA_UNSYNC = 0x40
#: Of the kernel's struct timex on 64-bit systems: its size at least, and where the status is.
_TIMEX_BYTES, _TIMEX_STATUS = 256, 40
#: Nothing of this project is older.
_FIRST_UNIX_S = 1_767_225_600  # 2026-01-01


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """``remedy``: what to do about it, empty where there is nothing to do. ``exit_code``: of one that fails."""

    about: str
    level: Level
    text: str
    remedy: str = ""
    exit_code: int = 0


def good(about: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(about=about, level="ok", text=text)


def warning(about: str, text: str, remedy: str) -> Finding:
    """The program works, but not as well as it could."""
    return Finding(about=about, level="warn", text=text, remedy=remedy)


def failure(about: str, text: str, remedy: str, *, exit_code: int = os.EX_UNAVAILABLE) -> Finding:
    """The program does not work like that."""
    return Finding(about=about, level="fail", text=text, remedy=remedy, exit_code=exit_code)


def attempt(about: str, look: Callable[[], str]) -> Finding:
    """Good with what ``look`` returns; a `SplitModelError` is a failure with its problem and its remedy.

    So is a file that this user may not even look at, which ends no doctor.
    """
    try:
        return good(about, look())
    except SplitModelError as error:
        return failed(about, error)
    except PermissionError as error:
        text = f"{error.filename}: {error.strerror}"
        return failure(about, text, "let the program's user read that folder", exit_code=os.EX_NOPERM)


def failed(about: str, error: SplitModelError, *, remedy: str = "") -> Finding:
    """The failure that an error tells of. ``remedy`` takes the place of the error's own."""
    return failure(about, error.problem, remedy or error.remedy, exit_code=error.exit_code)


def of_disk(folder: Path, *, key: str, user: str = "", as_root: str = "run doctor with sudo") -> Finding:
    """Whether a folder that the program writes to may be written, and has room.

    Args:
        folder: The folder, made or not yet.
        key: The config key that says where it is.
        user: Whom the program runs as, where this process is somebody else; then nothing is said of its rights.
        as_root: What to do to see with the program's rights.

    """
    place = next((path for path in (folder, *folder.parents) if os.path.exists(path)), Path("/"))  # noqa: PTH110
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        mount = _mount_point(place)
        return failure(
            "disk",
            f"{folder}: the file system at {mount} is read-only, so nothing can be kept there",
            f"look for its fault with 'dmesg', then 'mount -o remount,rw {mount}' and restart the program; or set "
            f"{key} elsewhere",
            exit_code=os.EX_CANTCREAT,
        )
    free = shutil.disk_usage(place).free
    text = f"{folder}: {free / 1e6:.0f} MB free"
    if free < _MIN_FREE_BYTES["fail"]:
        return failure("disk", text, "make room: the ledger cannot be made, and answers may be lost",
                       exit_code=os.EX_CANTCREAT)  # fmt: skip
    if user:
        return warning("disk", f"{text}; whether {user} may write there was not looked at", as_root)
    if not os.access(place, os.W_OK | os.X_OK):
        return failure("disk", f"{folder}: this user may not write in {place}",
                       f"give that folder to the program's user, or set {key} elsewhere",
                       exit_code=os.EX_CANTCREAT)  # fmt: skip
    if free < _MIN_FREE_BYTES["warn"]:
        return warning("disk", text, "make room")
    return good("disk", text)


def _mount_point(place: Path) -> Path:
    """Where the file system of a folder is mounted. Not by device numbers, which bind mounts share."""
    folder = place.resolve()
    mounts = {
        Path(line.split()[4].encode().decode("unicode_escape"))  # blanks in it are octal
        for line in Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    }
    return next((path for path in (folder, *folder.parents) if path in mounts), Path("/"))


def of_clock(*, now_unix_s: float | None = None, synchronised: Callable[[], bool | None] | None = None) -> Finding:
    """Only logs and people use the wall clock here, so a wrong one is a warning."""
    now_unix_s = time.time() if now_unix_s is None else now_unix_s
    told = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_unix_s))
    remedy = "set it, or let systemd-timesyncd or chrony do so; logs show wrong times until then"
    if now_unix_s < _FIRST_UNIX_S:
        return warning("clock", f"{told} is in the past", remedy)
    state = (synchronised or clock_synchronised)()
    if state is False:
        return warning("clock", f"{told}, not synchronised", remedy)
    return good("clock", told if state is None else f"{told}, synchronised")


def clock_synchronised() -> bool | None:
    """What the kernel says of it (adjtimex, read only); None where it does not say."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        if ctypes.CDLL(None).adjtimex(buffer) < 0:
            return None
    except (OSError, AttributeError):
        return None
    (status,) = struct.unpack_from("i", buffer, _TIMEX_STATUS)
    return not status & _STA_UNSYNC


def show(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Print them as they come, and return the exit code: 0 unless something fails, then that of the first."""
    code = 0
    collected = []
    for finding in findings:
        code = code or (finding.exit_code if finding.level == "fail" else 0)
        if as_json:
            collected.append(finding)
            continue
        mark = finding.level if finding.level == "ok" else finding.level.upper()
        print(f"{mark:<5} {finding.about:<9} {finding.text}", flush=True)
        if finding.remedy:
            print(f"{'':<15} -> {finding.remedy}", flush=True)
    if as_json:
        print(msgspec.json.encode(collected).decode())
    return code

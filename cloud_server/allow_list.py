"""The allow-list of devices: a text file with lines ``NAME PUBLICKEY``, re-read when it changes.

A line may end with ``weight=N``, an integer from 1 (the default) to `MAX_WEIGHT`. If both want more than they get,
a device of weight 3 gets three times the worker time and queue places of one of weight 1.

Lines end as in an editor (`text_file`): no other character ends a comment or begins an entry. The commands that
rewrite the file keep every byte of the lines that they do not change.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from split_model.errors import BadInputError, MissingInputError, OutputError, UsageError
from split_model.protocol.keys import parse_public
from split_model.service import text_file
from split_model.service.atomic_file import write_atomically

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_WEIGHT = 100
#: Errors of this program's resources, not of the file.
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_WEIGHT = re.compile(r"weight=([1-9][0-9]{0,2})")


@dataclass(frozen=True)
class Entry:
    """The content of a line besides the key: the device's name and its weight."""

    name: str
    weight: int = 1


def parse(raw: bytes, where: str) -> tuple[dict[str, str], list[str]]:
    """Parse a list: public key (Z85) -> name, and the complaints of `entries`."""
    found, complaints = entries(raw, where)
    return {key: entry.name for key, entry in found.items()}, complaints


def entries(raw: bytes, where: str) -> tuple[dict[str, Entry], list[str]]:
    """Parse a list: public key (Z85) -> entry, and a complaint for each faulty line, which admits nobody.

    Args:
        raw: The file's bytes.
        where: The file, which begins each complaint.

    """
    devices: dict[str, Entry] = {}
    complaints = []
    for line in text_file.lines(raw):
        if line.stray:
            complaints.append(f"{where}:{line.number}: {line.stray}; this line admits nobody")
            continue
        entry = line.text.strip()
        if not entry or entry.startswith("#"):
            continue
        name, _, rest = entry.partition(" ")
        key, has_weight, weight_text = rest.partition(" ")
        if not _NAME.fullmatch(name):
            complaints.append(
                f"{where}:{line.number}: not 'NAME PUBLICKEY' or 'NAME PUBLICKEY weight=N'; this line admits nobody"
            )
            continue
        weight = _weight(weight_text) if has_weight else 1
        if weight is None:
            complaints.append(
                f"{where}:{line.number}: {weight_text!r} is not 'weight=N' with N from 1 to {MAX_WEIGHT}; "
                "this line admits nobody"
            )
            continue
        try:
            devices[parse_public(key, f"{where}:{line.number}").decode()] = Entry(name, weight)
        except BadInputError as error:
            complaints.append(str(error))
    return devices, complaints


def _weight(text: str) -> int | None:
    found = _WEIGHT.fullmatch(text)
    weight = int(found[1]) if found else 0
    return weight if 1 <= weight <= MAX_WEIGHT else None


class AllowList:
    """The allow-list of the running server. A file that is missing or cannot be read admits nobody."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._devices: dict[str, Entry] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._told: list[str] | None = None
        self.version = 0

    def refresh(self) -> bool:
        """Read the file again if it has changed; returns whether it has. ``version`` counts the changes.

        If this program lacks descriptors or memory, the list stays as it is: that is no fault of the file, and
        strangers may have caused it.
        """
        stamp = _stamp_of(self.path)
        if stamp == self._stamp and (stamp is not None or self._told):
            return False
        devices: dict[str, Entry] = {}
        if stamp is not None:
            try:
                devices, complaints = entries(self.path.read_bytes(), str(self.path))
            except OSError as error:
                if error.errno in _SHORTAGES:
                    self._tell([f"{self.path}: {error.strerror}; the list from before stays valid"])
                    return False
                stamp, complaints = None, [f"{self.path}: {error.strerror}; nobody is admitted"]
        else:
            complaints = [f"{self.path}: not there; nobody is admitted until 'cloud-server devices allow' makes it"]
        is_news = self._tell(complaints) or devices != self._devices or stamp is not None
        self._devices, self._stamp = devices, stamp
        self.version += is_news
        return is_news

    def _tell(self, complaints: list[str]) -> bool:
        """Log complaints if they differ from the last ones; returns whether they do."""
        if complaints == self._told:
            return False
        self._told = complaints
        for complaint in complaints:
            _log.warning("%s", complaint)
        return True

    def name_of(self, public_key: str) -> str | None:
        """The name of the device with this key, or None for a key that is not admitted."""
        entry = self._devices.get(public_key)
        return None if entry is None else entry.name

    def weight_of(self, public_key: str) -> int:
        """The weight of the device with this key; 1 for a key that is not admitted. Safe from any thread."""
        entry = self._devices.get(public_key)
        return 1 if entry is None else entry.weight

    @property
    def devices(self) -> dict[str, str]:
        """Public key -> name."""
        return {key: entry.name for key, entry in self._devices.items()}


def allow(path: Path, name: str, key: str, *, weight: int = 1) -> None:
    """Add a device. A known name or key, or an invalid weight, is a `UsageError`."""
    if not 1 <= weight <= MAX_WEIGHT:
        raise UsageError(f"weight {weight}", remedy=f"choose one from 1 to {MAX_WEIGHT}")
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"device name {name!r}", remedy="use letters, digits, dot, dash and underscore, 64 at most"
        )
    public = parse_public(key, f"key of {name}").decode()
    _forget(revoked_path(path), public)
    with _editing(path) as lines:
        devices, _ = parse(b"".join(lines), str(path))
        if public in devices:
            raise UsageError(
                f"{path}: this key is allowed already, as {devices[public]}",
                remedy="revoke that one to give it another name",
            )
        if name in devices.values():
            raise UsageError(
                f"{path}: there is a device {name} already", remedy="revoke it first or choose another name"
            )
        if lines and not lines[-1].endswith(b"\n"):
            lines[-1] += b"\n"
        lines.append(f"{name} {public}{f' weight={weight}' if weight != 1 else ''}\n".encode())


def revoked_path(path: Path) -> Path:
    """The file beside the list with the revoked keys, in lines ``NAME PUBLICKEY``."""
    return path.with_name(f"{path.name}.revoked")


def revoke(path: Path, name: str, *, remember: bool = True) -> None:
    """Take a device off the list; the running server refuses its next message.

    Args:
        path: The list.
        name: The device.
        remember: Store the key in `revoked_path`, so that a deployment does not admit it again.

    Raises:
        MissingInputError: There is no such device.

    """
    if not path.exists():
        raise MissingInputError(
            f"{path}: not there, so no device is allowed", remedy="name the server's config with -c"
        )
    keys = [key for key, known in parse(path.read_bytes(), str(path))[0].items() if known == name]
    if remember and keys:
        with _editing(revoked_path(path)) as lines:
            lines += [f"{name} {key}\n".encode() for key in keys if not any(key.encode() in line for line in lines)]
    with _editing(path) as lines:
        kept = [line for line in lines if _name_in(line) != name]
        if len(kept) == len(lines):
            raise MissingInputError(f"{path}: no device {name}", remedy="see 'cloud-server devices list'")
        lines[:] = kept


def _forget(path: Path, key: str) -> None:
    """Remove a key from the revoked ones, as it was allowed by hand."""
    if path.exists():
        with _editing(path) as lines:
            lines[:] = [line for line in lines if key.encode() not in line.split()]


@contextmanager
def _editing(path: Path) -> Iterator[list[bytes]]:
    """Edit the file's lines (with line ends) in place; written back atomically, by one writer at a time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            raw = path.read_bytes() if path.exists() else b""
            lines = [line for line in re.split(rb"(?<=\n)", raw) if line]
            yield lines
            mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
            write_atomically(path, b"".join(lines), mode=mode)
        finally:
            os.close(folder)
    except OSError as error:
        if isinstance(error, (MissingInputError, OutputError)):
            raise
        raise OutputError(
            f"{path}: {error.strerror}", remedy="run this as a user who may write to its folder"
        ) from None


def _name_in(raw: bytes) -> str:
    """The first word of a line, or empty."""
    words = "".join(line.text for line in text_file.lines(raw)).split()
    return words[0] if words else ""


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  (once a batch of messages; this is half the time)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino

"""The ledger's file: two preallocated slots, each a copy of the state with sequence number and checksum.

A change is written to the older slot and synced, then to the other and synced. So at every moment at least one slot
is whole and has no less than the releases made: during a write the other slot is valid; between writes both are,
and one may become unreadable. Neither write needs new blocks on the disk, so a full disk stops nothing.

    ledger/slots     slot 0 at byte 0, slot 1 at byte 16384, each: magic, sequence number, length, SHA-256, JSON
    ledger/lock      held by the program that may write
    ledger-started   says that a ledger was made here once; without slots beside it, the ledger has been lost
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_runtime.privacy.ledger.state import LedgerState
from split_model.errors import MissingInputError, NotAllowedError, OutputError, SplitModelError
from split_model.service.atomic_file import sync_folder, write_atomically
from split_model.service.state_folder import make_state_folder

SLOT_BYTES = 16 << 10
FILE_BYTES = 2 * SLOT_BYTES
_MAGIC = b"EDGELED1"
_HEAD = struct.Struct("<8sQI32s")
_MARKER_TEXT = "A privacy ledger was made here. Without ledger/slots beside this file, nothing is released.\n"


class LedgerError(SplitModelError, ValueError):
    """The ledger is lost or damaged, so the spent budget is unknown (exit code 65). Nothing is released."""

    exit_code = os.EX_DATAERR


def store_path(state: Path) -> Path:
    """Path of the slots' file in a state folder."""
    return state / "ledger" / "slots"


def marker_path(state: Path) -> Path:
    """Path of the file that marks that a ledger was made."""
    return state / "ledger-started"


def encode(ledger_state: LedgerState, sequence: int) -> bytes:
    """Encode one slot; at most `SLOT_BYTES` bytes."""
    body = json.dumps(msgspec.to_builtins(ledger_state), separators=(",", ":")).encode()
    record = _HEAD.pack(_MAGIC, sequence, len(body), _digest(sequence, body)) + body
    if len(record) > SLOT_BYTES:
        raise LedgerError(
            f"the ledger's state takes {len(record)} bytes and a slot has {SLOT_BYTES}", remedy="use fewer subjects"
        )
    return record


def decode(image: bytes) -> tuple[int, LedgerState] | None:
    """Decode the newest whole slot of a file: sequence number and ledger state; None if there is none."""
    found = [slot for at in (0, SLOT_BYTES) if (slot := _decode_slot(image[at : at + SLOT_BYTES])) is not None]
    return max(found, key=lambda slot: slot[0], default=None)


def _decode_slot(slot: bytes) -> tuple[int, LedgerState] | None:
    if len(slot) < _HEAD.size:
        return None
    magic, sequence, length, digest = _HEAD.unpack_from(slot)
    body = slot[_HEAD.size : _HEAD.size + length]
    if magic != _MAGIC or len(body) != length or _digest(sequence, body) != digest:
        return None
    try:
        return sequence, msgspec.convert(json.loads(body), LedgerState)
    except (ValueError, msgspec.ValidationError):
        return None


def _digest(sequence: int, body: bytes) -> bytes:
    return hashlib.sha256(_MAGIC + struct.pack("<QI", sequence, len(body)) + body).digest()


class LedgerStore:
    """The file, open for writing. ``pwrite`` and ``fsync`` are arguments, so that tests can interrupt them."""

    def __init__(
        self,
        path: Path,
        *,
        pwrite: Callable[[int, bytes, int], int] = os.pwrite,
        fsync: Callable[[int], None] = os.fsync,
    ) -> None:
        self._pwrite = pwrite
        self._fsync = fsync
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def load(self) -> LedgerState:
        """Read the newest slot and reserve the file's place on the disk. Raises `LedgerError` if none is valid."""
        newest = decode(os.pread(self._file, FILE_BYTES, 0))
        if newest is None:
            raise LedgerError(
                f"{self._path}: no slot of the privacy ledger is valid, so the spent budget is unknown",
                remedy="restore the file, or give the device a new state folder if its data have never left it",
            )
        os.posix_fallocate(self._file, 0, FILE_BYTES)
        self._sequence, ledger_state = newest
        return ledger_state

    def store(self, ledger_state: LedgerState) -> None:
        """Write and sync both slots, the older one first. After an OSError nothing may leave."""
        for _ in range(2):
            sequence = self._sequence + 1
            record = memoryview(encode(ledger_state, sequence))
            offset = sequence % 2 * SLOT_BYTES
            while record:
                written = self._pwrite(self._file, bytes(record), offset)
                record, offset = record[written:], offset + written
            self._fsync(self._file)
            self._sequence = sequence

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def take_lock(state: Path) -> int:
    """Lock the ledger of a state folder; returns the descriptor that holds the lock.

    Raises:
        NotAllowedError: Another program has the ledger.
        OutputError: The folder cannot be made or written.

    """
    folder = store_path(state).parent
    try:
        make_state_folder(folder)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise OutputError(
            f"{folder}: {error.strerror}", remedy="make device.state a folder that this program may write to"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise NotAllowedError(
            f"{folder}: another edge-runtime has the privacy ledger",
            remedy="stop it, or give this one its own device.state",
        ) from None
    return lock


def create(state: Path, ledger_state: LedgerState) -> None:
    """Make the file atomically at a device's first start; `LedgerError` if there was one before."""
    path, marker = store_path(state), marker_path(state)
    if marker.exists():
        raise LedgerError(
            f"{path}: the privacy ledger is gone (by {marker.name} there was one), so the spent budget is unknown",
            remedy="restore it from a backup",
        )
    fresh = path.with_suffix(".new")
    try:
        file = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            os.posix_fallocate(file, 0, FILE_BYTES)
            for sequence in (2, 3):
                os.pwrite(file, encode(ledger_state, sequence), sequence % 2 * SLOT_BYTES)
            os.fsync(file)
        finally:
            os.close(file)
        fresh.rename(path)
        sync_folder(path.parent)
        sync_folder(state)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: the privacy ledger cannot be made: {error.strerror}", remedy="free some space"
        ) from None


def mark(state: Path) -> None:
    """Mark that there is a ledger, so that a lost one is not mistaken for a first start."""
    marker = marker_path(state)
    if marker.exists():
        return
    write_atomically(marker, _MARKER_TEXT.encode())


def read(state: Path) -> LedgerState | None:
    """Read the last written state, without a lock or a change; None before a device's first start.

    Raises:
        LedgerError: It is lost or damaged.
        MissingInputError: This user may not read the file.

    """
    path = store_path(state)
    try:
        image = path.read_bytes()
    except FileNotFoundError:
        if marker_path(state).exists():
            raise LedgerError(f"{path}: the privacy ledger is gone", remedy="restore it from a backup") from None
        return None
    except OSError as error:
        raise MissingInputError(
            f"{path}: {error.strerror}", remedy="run as the user of the device program"
        ) from None
    newest = decode(image)
    if newest is None:
        raise LedgerError(
            f"{path}: no slot of the privacy ledger is valid, so nothing is released",
            remedy="restore it from a backup",
        )
    return newest[1]

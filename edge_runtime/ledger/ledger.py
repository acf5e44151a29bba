"""The ledger of a running device: every release is charged here before its first byte leaves."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from edge_runtime.ledger import books as pure
from edge_runtime.ledger import slots
from edge_runtime.ledger.amounts import Amount, as_float
from edge_runtime.ledger.books import Books, Limits, Now, Refusal
from edge_runtime.ledger.slots import SlotFile
from split_model.errors import NotAllowedError, OutputError

log = logging.getLogger(__name__)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: A spent window's age is noted this many times, so that a restart costs no more than such a part of it.
_NOTES_PER_WINDOW = 16


def system_now() -> Callable[[], Now]:
    """The kernel's boot clock, suspend included."""
    try:
        boot_id = _BOOT_ID.read_text().strip()
    except OSError:
        boot_id = uuid.uuid4().hex  # then every start counts as a boot, and no time between two is credited
    return lambda: Now(boot_id, time.clock_gettime(time.CLOCK_BOOTTIME))


class Ledger:
    """Open it with `open_in`, `charge` before every release, `close` at the end. Safe from several threads.

    What is on the disk is at least what was charged: releases are paid from a block that was written and synced
    before. `close` gives the rest of the block back; a crash forfeits it.
    """

    def __init__(self, file: SlotFile, lock: int, limits: Limits, now: Callable[[], Now]) -> None:
        """Takes over both files. Raises `LedgerError`, or OSError where the disk does not take it."""
        self._guard = threading.Lock()
        self._file = file
        self._lock = lock
        self._limits = limits
        self._now = now
        stored = file.load()
        if stored.reserved != Amount():
            log.warning(
                "the last run did not give back what it had reserved; "
                "%d releases, whole-input epsilon %.6g together, "
                "count as made",
                stored.reserved.releases,
                as_float(stored.reserved.epsilon),
            )
        self._used = pure.opened(stored, now())
        self._reserve = Amount()
        self._reserved_for = ""
        self._broken: Refusal | None = None
        file.store(self._used)
        self._noted_age_s = self._used.window_age_s

    @classmethod
    def open_in(
        cls, state: Path, limits: Limits, *, now: Callable[[], Now], unix_s: Callable[[], float] = time.time
    ) -> Ledger:
        """The ledger of a state folder; a new one at the first start only.

        Raises `NotAllowedError` while another program has it, `LedgerError` where it is lost or damaged, and
        `OutputError` where the disk does not take it.
        """
        lock = _lock(state)
        try:
            if not slots.slots_path(state).exists():
                slots.create(state, pure.new_books(now(), since_unix_s=int(unix_s())))
                log.warning("%s: first start, a new privacy ledger begins at zero", slots.slots_path(state))
            slots.mark(state)
            file = SlotFile(slots.slots_path(state))
            try:
                return cls(file, lock, limits, now)
            except BaseException:
                file.close()
                raise
        except OSError as error:
            os.close(lock)
            if isinstance(error, OutputError):
                raise
            raise OutputError(f"{state}: the privacy ledger cannot be written: {error.strerror}") from None
        except BaseException:
            os.close(lock)
            raise

    @property
    def used(self) -> Books:
        """What was really charged, without the reserve."""
        with self._guard:
            return self._used

    @property
    def trouble(self) -> str:
        """Why it can no longer be written, or empty."""
        with self._guard:
            return "" if self._broken is None else self._broken.text

    def limit(self, limits: Limits) -> None:
        """Other budgets from now on; what was spent counts against them."""
        with self._guard:
            self._limits = limits

    def refusal(self, cost: Amount, subject: str) -> Refusal | None:
        """What `charge` would say now; charges nothing."""
        with self._guard:
            current = pure.rolled(pure.advanced(self._used, self._now()), self._limits)
            return self._broken or pure.refusal(current, cost, subject, self._limits)

    def charge(self, cost: Amount, subject: str) -> Refusal | None:
        """Pay for one release before it is made; a `Refusal` means that nothing may leave."""
        with self._guard:
            aged = pure.advanced(self._used, self._now())
            current = pure.rolled(aged, self._limits)
            refused = self._broken or pure.refusal(current, cost, subject, self._limits)
            if refused is not None:
                self._note_age(current)
                return refused
            # In a new window the old block is not paid for: what is on the disk counts it for the old.
            if current is not aged or subject != self._reserved_for or not self._reserve.covers(cost):
                frames = pure.affordable(current, cost, subject, self._limits)
                if (failed := self._write(pure.with_reserve(current, cost, subject, frames))) is not None:
                    return failed
                self._reserve, self._reserved_for = cost * frames, subject
            self._reserve -= cost
            self._used = pure.added(current, cost, subject)
            return None

    def close(self) -> None:
        """Give the rest of the block back and let go of the files."""
        with self._guard:
            if self._broken is None:
                self._write(pure.advanced(self._used, self._now()))
            self._broken = Refusal("ledger", "the ledger is closed")
            self._file.close()
            with contextlib.suppress(OSError):
                os.close(self._lock)

    def _note_age(self, current: Books) -> None:
        """While a window is spent nothing else is written, and its age would be lost with the power."""
        window_s = self._limits.window_s
        if window_s is not None and current.window_age_s - self._noted_age_s >= window_s / _NOTES_PER_WINDOW:
            self._used = current
            self._reserve = Amount()
            self._write(current)

    def _write(self, books: Books) -> Refusal | None:
        if self._broken is not None:
            return self._broken
        try:
            self._file.store(books)
        except OSError as error:
            # After a failed sync nobody knows what the disk holds; only opening it anew can tell.
            text = f"the privacy ledger cannot be written ({error.strerror}); nothing leaves until the next start"
            self._broken = Refusal("ledger", text)
            return self._broken
        self._noted_age_s = books.window_age_s
        return None


def _lock(state: Path) -> int:
    folder = slots.slots_path(state).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror}; the state folder must be writable") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise NotAllowedError(
            f"{folder}: another edge-runtime has the privacy ledger; stop it, or give this one its own device.state"
        ) from None
    return lock

"""The ledger of a running device: every release is charged here before its first byte leaves."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from edge_runtime.privacy.ledger import state as pure
from edge_runtime.privacy.ledger import store
from edge_runtime.privacy.ledger.amounts import Amount, as_float
from edge_runtime.privacy.ledger.state import LedgerState, Limits, Now, Refusal
from edge_runtime.privacy.ledger.store import LedgerError, LedgerStore
from split_model.errors import OutputError

log = logging.getLogger(__name__)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: The age of a spent window is stored this many times per window, so a restart costs at most that part of it.
_NOTES_PER_WINDOW = 16
#: The next block is bought when this share of one is left.
_AHEAD_AT = 8


def system_now() -> Callable[[], Now]:
    """Read the kernel's boot clock, which goes on in suspend."""
    try:
        boot_id = _BOOT_ID.read_text().strip()
    except OSError:
        boot_id = uuid.uuid4().hex  # then every start counts as a boot, and the time between two is not credited
    return lambda: Now(boot_id, time.clock_gettime(time.CLOCK_BOOTTIME))


class Ledger:
    """The open ledger: `charge` it before every release, `close` it at the end. Thread-safe; see `open_in`.

    The total on the disk is never below the charges: releases are paid from a block of prepaid frames, one for each
    subject, that was written and synced before. `close` returns the unused part of the blocks; a crash loses it.
    With ``ahead``, an executor of one thread, the next block is written before the last one is used up, so no frame
    waits for the disk. During that write the other slot is whole and holds the old block, and only the old block
    pays.
    """

    def __init__(
        self,
        file: LedgerStore,
        lock: int,
        limits: Limits,
        now: Callable[[], Now],
        *,
        ahead: Executor | None = None,
    ) -> None:
        """Take over both files and ``ahead``. Raises `LedgerError`, or OSError if the disk fails."""
        self._guard = threading.Condition()
        self._ahead = ahead
        self._under_way = self._closed = False
        self._file = file
        self._lock = lock
        self._limits = limits
        self._now = now
        stored = file.load()
        if (lost := pure.total_of(stored.reserved)) != Amount():
            log.warning(
                "the last run did not close the ledger; its %d prepaid releases, "
                "whole-input epsilon %.6g together, count as made",
                lost.releases,
                as_float(lost.epsilon),
            )
        self._used = pure.opened(stored, now())
        self._reserves: dict[str, Amount] = {}
        self._broken: Refusal | None = None
        file.store(self._used)
        self._noted_age_s = self._used.window_age_s

    @classmethod
    def open_in(
        cls,
        state: Path,
        limits: Limits,
        *,
        now: Callable[[], Now],
        unix_s: Callable[[], float] = time.time,
        ahead: Executor | None = None,
    ) -> Ledger:
        """Open the ledger of a state folder; make a new one only at the first start.

        Raises:
            NotAllowedError: Another program has it open.
            LedgerError: It is lost or damaged.
            OutputError: The disk cannot be written.

        """
        lock = store.take_lock(state)
        try:
            if not store.store_path(state).exists():
                store.create(state, pure.new_state(now(), since_unix_s=int(unix_s())))
                log.warning("%s: first start, a new privacy ledger begins at zero", store.store_path(state))
            store.mark(state)
            file = LedgerStore(store.store_path(state))
            try:
                return cls(file, lock, limits, now, ahead=ahead)
            except BaseException:
                file.close()
                raise
        except OSError as error:
            os.close(lock)
            if isinstance(error, OutputError):
                raise
            raise OutputError(
                f"{state}: the privacy ledger cannot be written: {error.strerror}",
                remedy="make room, or make the folder writable",
            ) from None
        except BaseException:
            os.close(lock)
            raise

    @property
    def used(self) -> LedgerState:
        """The state with the real charges, without prepaid frames."""
        with self._guard:
            return self._used

    @property
    def trouble(self) -> str:
        """Why the ledger can no longer be written, or empty."""
        with self._guard:
            return "" if self._broken is None else self._broken.text

    def limit(self, limits: Limits) -> None:
        """Other budgets from now on; earlier releases count against them."""
        with self._guard:
            self._limits = limits

    def refusal(self, cost: Amount, subject: str) -> Refusal | None:
        """Return the result that `charge` would have now; charges nothing."""
        with self._guard:
            current = pure.rolled(pure.advanced(self._used, self._now()), self._limits)
            return self._broken or pure.refusal(current, cost, subject, self._limits)

    def charge(self, cost: Amount, subject: str) -> Refusal | None:
        """Pay for one release before it is made; a `Refusal` means that it must not be sent."""
        with self._guard:
            while True:
                aged = pure.advanced(self._used, self._now())
                current = pure.rolled(aged, self._limits)
                refused = self._broken or pure.refusal(current, cost, subject, self._limits)
                if refused is not None:
                    self._note_age(current)
                    return refused
                # In a new window the old blocks are of no use: on the disk they count for the old window.
                window_began = current is not aged
                if not window_began and self._reserves.get(subject, Amount()).covers(cost):
                    break
                if self._under_way:
                    self._guard.wait()
                    continue
                reserves = pure.bought(current, cost, subject, self._limits, {} if window_began else self._reserves)
                if (failed := self._write(pure.with_reserves(current, reserves))) is not None:
                    return failed
                self._reserves = reserves
                break
            self._reserves[subject] -= cost
            self._used = pure.added(current, cost, subject)
            self._buy_ahead(cost, subject)
            return None

    def close(self) -> None:
        """Return the unused part of the blocks and close the files; a second call does nothing."""
        with self._guard:
            while self._under_way:
                self._guard.wait()
            if self._closed:
                return
            self._closed = True
            if self._broken is None:
                self._write(pure.advanced(self._used, self._now()))
            self._broken = Refusal("ledger", "the ledger is closed")
            self._file.close()
            with contextlib.suppress(OSError):
                os.close(self._lock)
        if self._ahead is not None:
            self._ahead.shutdown()

    def _buy_ahead(self, cost: Amount, subject: str) -> None:
        """Buy a new block when little of the old one is left, unless the budgets are too short for it."""
        left = self._reserves[subject]
        if self._ahead is None or self._under_way or left.releases > self._limits.block_frames // _AHEAD_AT:
            return
        reserves = pure.bought(self._used, cost, subject, self._limits, self._reserves)
        if reserves.keys() < self._reserves.keys() or not reserves[subject].covers(left + cost):
            return
        self._under_way = True
        try:
            self._ahead.submit(self._write_ahead, self._used, reserves)
        except BaseException:
            self._under_way = False  # no one would report its end
            raise

    def _write_ahead(self, used: LedgerState, reserves: dict[str, Amount]) -> None:
        """Write the bought blocks, in the executor's thread; ``used``: the charged total when they were bought."""
        try:
            failed = self._broken or self._store(pure.with_reserves(used, reserves))
            with self._guard:
                if failed is None:
                    # Charges made meanwhile were paid from the old blocks, which the new ones contain.
                    spent = {
                        name: self._used.subjects.get(name, Amount()) - used.subjects.get(name, Amount())
                        for name in reserves
                    }
                    self._reserves = {name: amount - spent[name] for name, amount in reserves.items()}
                    self._noted_age_s = used.window_age_s
                self._broken = self._broken or failed
        except BaseException as error:
            log.exception("privacy ledger")  # the executor would hide the error
            with self._guard:
                self._broken = self._broken or _unwritable(type(error).__name__)
            raise
        finally:
            with self._guard:
                self._under_way = False
                self._guard.notify_all()

    def _note_age(self, current: LedgerState) -> None:
        """Store the age of a spent window: nothing else is written then, and a power cut would lose it."""
        window_s = self._limits.window_s
        if window_s is None or self._under_way:
            return
        if current.window_age_s - self._noted_age_s >= window_s / _NOTES_PER_WINDOW:
            self._used = current
            self._reserves = {}
            self._write(current)

    def _write(self, ledger_state: LedgerState) -> Refusal | None:
        if self._broken is None:
            self._broken = self._store(ledger_state)
            self._noted_age_s = ledger_state.window_age_s
        return self._broken

    def _store(self, ledger_state: LedgerState) -> Refusal | None:
        try:
            self._file.store(ledger_state)
        except (OSError, LedgerError) as error:
            # After a failed sync the content of the disk is unknown until the ledger is opened again.
            why = (error.strerror if isinstance(error, OSError) else None) or error
            return _unwritable(str(why))
        return None


def _unwritable(why: str) -> Refusal:
    return Refusal("ledger", f"the privacy ledger cannot be written ({why}); nothing leaves until the next start")

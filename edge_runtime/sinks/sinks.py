"""Gives every record to every sink of a config; reopens one that fails while the others go on."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edge_runtime.sinks.sink import Sink, SinkTable
from split_model.arrays import Array
from split_model.errors import SplitModelError

log = logging.getLogger(__name__)

#: Pause before a sink is reopened, in seconds: the first and the longest.
_RETRY_S = (1.0, 30.0)


class _Kept:
    """One sink, open or broken; ``lost``: number of records that it did not take."""

    def __init__(self, table: SinkTable, now: Callable[[], float]) -> None:
        self.label = table.label
        self.lost = 0
        self.trouble = ""
        self.error: Exception | None = None
        self._table = table
        self._now = now
        self.keeps = table.keeps
        self.table = table
        self._sink: Sink | None = None
        self._last: Sink | None = None  # kept for its counters
        self._retry_at_s = 0.0
        self._pause_s = _RETRY_S[0]

    @property
    def counters(self) -> dict[str, int]:
        return {} if self._last is None else self._last.counters()

    def write(self, record: Mapping[str, Any], outputs: Sequence[Array]) -> bool:
        """Write a record; returns whether the sink took it."""
        if self._sink is None and (self._now() < self._retry_at_s or not self.open()):
            self.lost += 1
            return False
        assert self._sink is not None
        try:
            self._sink.write(record, outputs)
        except BrokenPipeError:  # the reader of our standard output has gone, which ends the program
            raise
        except (SplitModelError, OSError) as error:
            self._fail(error)
            self.lost += 1
            return False
        if self.error is not None:
            log.info("sink %s: works again; %d answers were lost", self.label, self.lost)
            self.error, self.trouble, self._pause_s = None, "", _RETRY_S[0]
        return True

    def open(self) -> bool:
        """Try to open the sink; returns whether it is open."""
        try:
            self._sink = self._last = self._table.open()
        except (SplitModelError, OSError) as error:
            self._fail(error)
            return False
        return True

    def close(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.close()

    def _fail(self, error: Exception) -> None:
        if str(error) != self.trouble:
            log.error("sink %s: %s; answers for it are lost until then", self.label, error)
        self.error, self.trouble = error, str(error)
        self._retry_at_s = self._now() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _RETRY_S[1])
        with contextlib.suppress(SplitModelError, OSError):
            self.close()


class Sinks:
    """Several sinks, by their labels.

    Args:
        tables: The sinks' tables of the config.
        persistent: Go on although no sink works; otherwise its error is raised.

    Raises:
        SplitModelError: No sink can be opened.

    """

    def __init__(
        self,
        tables: Sequence[SinkTable],
        *,
        persistent: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kept = [_Kept(table, now) for table in tables]
        self._persistent = persistent
        self._now = now
        self._lock = threading.Lock()  # held while a record is written, and during a change
        for kept in self._kept:
            kept.open()
        self._refuse_to_lose_all()

    def write(self, record: Mapping[str, Any], outputs: Sequence[Array] = ()) -> bool:
        """Give a record to all sinks.

        Returns:
            Whether the record is stored: by all sinks that keep records or, if there are none, taken by any sink.


        Raises:
            SplitModelError: No sink works, and the program is not ``persistent``.

        """
        with self._lock:
            return self._write(record, outputs)

    def change(self, tables: Sequence[SinkTable]) -> None:
        """Close the sinks that the config no longer names, and open the new ones. From any thread."""
        with self._lock:
            stay = [kept for kept in self._kept if kept.table in tables]
            for kept in self._kept:
                if kept not in stay:
                    log.info("sink %s: closed, as the config no longer names it", kept.label)
                    with contextlib.suppress(SplitModelError, OSError):
                        kept.close()
            there = [kept.table for kept in stay]
            made = [_Kept(table, self._now) for table in tables if table not in there]
            for kept in made:
                kept.open()
            self._kept = [*stay, *made]

    def _write(self, record: Mapping[str, Any], outputs: Sequence[Array]) -> bool:
        taken = [kept.write(record, outputs) for kept in self._kept]
        if not any(taken):
            self._refuse_to_lose_all()
        keepers = [took for took, kept in zip(taken, self._kept, strict=True) if kept.keeps]
        return all(keepers) if keepers else any(taken)

    def counters_by_sink(self) -> dict[str, dict[str, int]]:
        """The counters of each sink that has some, with the answers ``lost`` while it was broken."""
        found = {}
        for kept in self._kept:
            counters = kept.counters
            if kept.lost:
                counters = {**counters, "lost": counters.get("lost", 0) + kept.lost}
            if counters:
                found[kept.label] = counters
        return found

    def trouble_by_sink(self) -> dict[str, str]:
        """Reasons why broken sinks take no answers, by label. From any thread."""
        return {kept.label: kept.trouble for kept in self._kept if kept.trouble}

    def close(self) -> None:
        """Close all sinks."""
        with contextlib.ExitStack() as closing:
            for kept in self._kept:
                closing.callback(kept.close)

    def _refuse_to_lose_all(self) -> None:
        errors = [kept.error for kept in self._kept if kept.error is not None]
        if not self._persistent and self._kept and len(errors) == len(self._kept):
            with contextlib.suppress(SplitModelError, OSError):
                self.close()
            raise errors[0]

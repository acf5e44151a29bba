"""Counts released codewords in a separate thread, and stores the counts every few seconds."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from cloud_server.statistics.store import Store
from cloud_server.statistics.tally import Series, Tally
from split_model.errors import OutputError
from split_model.protocol import messages as wire
from split_model.service.stoppable_thread import StoppableThread
from split_model.service.throttle import PER_FRAME

_log = logging.getLogger(__name__)

_STORE_EVERY_S = 5.0
#: Maximum releases that wait for the thread; more are lost, and counted.
_WAITING = 65_536
#: Maximum counts, by (series, device, minute), that wait while the disk cannot be written; more are lost, and
#: counted.
_BUCKETS = 65_536


class Collector:
    """Counts releases; call `released` for every codebook release that arrived whole. It never waits.

    Attributes:
        counted: Number of stored releases.
        lost: Number of releases that found no room in memory or in the file.
        error: Why the file could not be written the last time, or empty.

    """

    def __init__(
        self, store: Store, *, wall_clock: Callable[[], float] = time.time, every_s: float = _STORE_EVERY_S
    ) -> None:
        self.counted = 0
        self.lost = 0
        self.error = ""
        self._store = store
        self._wall_clock = wall_clock
        self._every_s = every_s
        self._tally = Tally()
        self._waiting: deque[tuple[Series, str, bytes, tuple[str, int], float]] = deque()
        self._thread = StoppableThread("statistics", self._run)

    @property
    def copies(self) -> int:
        """Number of releases that were sent again after a lost connection; each was counted once."""
        return self._tally.copies

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def released(self, device: str, bundle_name: str, request: wire.Request, payload: bytes | bytearray) -> None:
        """Count a release; those without codewords are ignored. Any thread."""
        if not isinstance(request.release, wire.Codebook):
            return
        if len(self._waiting) >= _WAITING:
            self.lost += 1
            return
        series = Series(request.bundle, bundle_name, request.cut, request.release.spec)
        sent = (request.boot_id, request.request_id)
        self._waiting.append((series, device, bytes(payload), sent, self._wall_clock()))

    def close(self) -> None:
        """Store the last counts, and close the file."""
        if self._thread.stop():
            self._store_all()
            self._store.close()

    def _run(self) -> None:
        while not self._thread.stopping.wait(self._every_s):
            self._store_all()

    def _store_all(self) -> None:
        for _ in range(len(self._waiting)):
            series, device, payload, sent, unix_s = self._waiting.popleft()
            self._tally.add(series, device, payload, request=sent, unix_s=unix_s)
        buckets = self._tally.take()
        if not buckets:
            return
        frames = sum(bucket.frames for bucket in buckets.values())
        try:
            self._store.add(buckets, unix_s=self._wall_clock())
        except OutputError as error:
            self.error = str(error)
            _log.error("statistics: %s", error, extra=PER_FRAME)
            if len(buckets) <= _BUCKETS:
                self._tally.give_back(buckets)
            else:
                self.lost += frames
            return
        self.counted += frames
        self.error = ""

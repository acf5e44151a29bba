"""The events of an engine's thread: from any thread, handled one after another by that one, now or later."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Events:
    """See the module.

    Args:
        clock: Monotonic seconds.

    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._now: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._later: list[tuple[float, Callable[[], None]]] = []

    def put(self, what: Callable[[], None]) -> None:
        """Have the thread do something now. From any thread."""
        self._now.put(what)

    def wake(self) -> None:
        """Have the thread look at everything now. From any thread."""
        self._now.put(_nothing)

    def handing(self, what: Callable[[T], None]) -> Callable[[T], None]:
        """Return a function for any thread, which hands its argument to ``what`` on this thread."""
        return lambda value: self._now.put(partial(what, value))

    def after(self, delay_s: float, what: Callable[[], None]) -> None:
        """Have the thread do something in a while. From this thread alone."""
        self._later.append((self._clock() + delay_s, what))

    @property
    def has_later(self) -> bool:
        """Whether something waits for its time."""
        return bool(self._later)

    def handle(self, wait_s: float) -> None:
        """Wait for an event, up to ``wait_s`` seconds, and handle all that are there or due."""
        try:
            _handle(self._now.get(timeout=wait_s))
            while True:
                _handle(self._now.get_nowait())
        except queue.Empty:
            pass
        now_s = self._clock()
        due = [what for at_s, what in self._later if at_s <= now_s]
        self._later = [(at_s, what) for at_s, what in self._later if at_s > now_s]
        for what in due:
            _handle(what)


def _handle(event: Callable[[], None]) -> None:
    try:
        event()
    except Exception:  # noqa: BLE001  (one event must not end the thread that all jobs need)
        _log.exception("an event of the cluster")


def _nothing() -> None:
    """Wake the thread."""

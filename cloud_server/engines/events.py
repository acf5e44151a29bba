"""A queue of events for an engine's thread: put from any thread, handled in order by that one."""

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
        """Make the thread call a function now. From any thread."""
        self._now.put(what)

    def wake(self) -> None:
        """Wake the thread. From any thread."""
        self._now.put(_nothing)

    def handing(self, what: Callable[[T], None]) -> Callable[[T], None]:
        """Return a function for any thread that passes its argument to ``what`` on this thread."""
        return lambda value: self._now.put(partial(what, value))

    def after(self, delay_s: float, what: Callable[[], None]) -> None:
        """Make the thread call a function later. Only from this thread."""
        self._later.append((self._clock() + delay_s, what))

    @property
    def has_later(self) -> bool:
        """Whether a later call is pending."""
        return bool(self._later)

    def handle(self, wait_s: float) -> None:
        """Wait for an event, up to ``wait_s`` seconds, and handle all waiting or due ones."""
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

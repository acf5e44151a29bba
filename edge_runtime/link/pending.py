"""The requests that wait for an outcome, shared by the link thread and the frame loop. Thread-safe.

Links to several servers share one ``changed``, so that a wait at one link wakes for news of any.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edge_runtime.link.link_view import Outcome


class PendingRequests:
    """The pending requests by number, from `open` until the outcome is taken or the request is given up."""

    def __init__(
        self, *, now: Callable[[], float] = time.monotonic, changed: threading.Condition | None = None
    ) -> None:
        self._now = now
        self._changed = changed or threading.Condition()
        self._outcomes: dict[int, Outcome | None] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._outcomes)

    def open(self, number: int) -> None:
        """Register a request that will be waited for."""
        with self._changed:
            self._outcomes[number] = None

    def has_ended(self, number: int) -> bool:
        """Whether `wait` would give an outcome at once."""
        with self._changed:
            return self._outcomes.get(number) is not None

    def wait(self, number: int, *, until_s: float, unless: Callable[[], bool] = lambda: False) -> Outcome | None:
        """Wait for a request's outcome.

        Returns None when the time is up, when ``unless()`` is true, or after `close`. ``unless`` is checked on each
        wake-up; `nudge` wakes all waits. Taking the outcome removes the request from the pending ones.
        """
        with self._changed:
            while (outcome := self._outcomes.get(number)) is None:
                remaining_s = until_s - self._now()
                if remaining_s <= 0 or self._closed or unless():
                    return None
                self._changed.wait(min(remaining_s, 3600.0))
            del self._outcomes[number]
            return outcome

    def wait_for_news(self, *, until_s: float, unless: Callable[[], bool]) -> None:
        """Wait until the time is up, ``unless()`` is true, or `close`; outcomes and `nudge` check it again."""
        with self._changed:
            while not (self._closed or unless()) and (remaining_s := until_s - self._now()) > 0:
                self._changed.wait(min(remaining_s, 3600.0))

    def nudge(self) -> None:
        """Make every `wait` look at its ``unless`` again."""
        with self._changed:
            self._changed.notify_all()

    def give_up(self, number: int) -> None:
        """Remove a request that is no longer waited for."""
        with self._changed:
            self._outcomes.pop(number, None)

    def finish(self, number: int, outcome: Outcome) -> None:
        """Set the outcome of a request; ignored if it was given up."""
        with self._changed:
            if number in self._outcomes:
                self._outcomes[number] = outcome
                self._changed.notify_all()

    def close(self) -> None:
        """End all waits: no outcome will come any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

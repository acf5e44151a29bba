"""Where the frame loop's thread and the link thread meet: requests that somebody waits for, and how they ended.

Everything here may be called from any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from split_model.protocol.device import Answered, Refused


@dataclass(frozen=True)
class Outcome:
    """How a request ended at the server: answered or refused, one of the two."""

    at_s: float
    answered: Answered | None = None
    refusal: Refused | None = None


@dataclass(frozen=True)
class Progress:
    """How much of an open request has arrived, and since when it has been on its way; None if it is not yet."""

    total_bytes: int
    acked_bytes: int = 0
    first_sent_s: float | None = None


class Mailbox:
    """Open requests by their id. One is open from `open` until its outcome is taken or it is given up.

    ``outcomes``: those not taken yet. ``late``: answers that came for a request that was not open any more.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self.late = 0
        self._now = now
        self._changed = threading.Condition()
        self._open: dict[int, Progress] = {}
        self.outcomes: dict[int, Outcome] = {}
        self._closed = False

    def open(self, request_id: int, payload_bytes: int) -> None:
        """Somebody is going to wait for this request."""
        with self._changed:
            self._open[request_id] = Progress(payload_bytes)

    def wait(
        self, request_id: int, *, until_s: float, unless: Callable[[], bool] = lambda: False
    ) -> Outcome | None:
        """The outcome of a request, or None when the time is up or ``unless`` holds first (`nudge` rechecks it).

        An outcome is taken once; the request is then no longer open.
        """
        with self._changed:
            while request_id not in self.outcomes:
                remaining_s = until_s - self._now()
                if remaining_s <= 0 or self._closed or unless():
                    return None
                self._changed.wait(min(remaining_s, 3600.0))
            self._open.pop(request_id, None)
            return self.outcomes.pop(request_id)

    def rest(self, *, until_s: float, unless: Callable[[], bool]) -> None:
        """Wait until the time is up or ``unless`` holds; outcomes and `nudge` recheck it."""
        with self._changed:
            while not (self._closed or unless()) and (remaining_s := until_s - self._now()) > 0:
                self._changed.wait(remaining_s)

    def nudge(self) -> None:
        """Make every `wait` look at its ``unless`` again."""
        with self._changed:
            self._changed.notify_all()

    def give_up(self, request_id: int) -> Progress | None:
        """Nobody waits for this request any more; how far it came, None where it had ended."""
        with self._changed:
            left = self._open.pop(request_id, None)
            return left if self.outcomes.pop(request_id, None) is None else None

    def finish(self, request_id: int, outcome: Outcome) -> None:
        """A request has ended at the server."""
        with self._changed:
            if request_id in self._open:
                self.outcomes[request_id] = outcome
                self._changed.notify_all()
            elif outcome.answered is not None:
                self.late += 1

    def came_late(self) -> None:
        """An answer came for a request that the session does not know any more."""
        with self._changed:
            self.late += 1

    def note(self, acked_bytes: Callable[[int], int], first_sent_s: Callable[[int], float | None]) -> None:
        """Note how far every open request has come."""
        with self._changed:
            for request_id, before in self._open.items():
                self._open[request_id] = Progress(
                    before.total_bytes, acked_bytes(request_id), first_sent_s(request_id)
                )

    def acked_bytes(self, request_id: int) -> int:
        """How many bytes of an open request had arrived when that was last noted."""
        with self._changed:
            found = self._open.get(request_id)
            return 0 if found is None else found.acked_bytes

    def close(self) -> None:
        """No outcome will come any more: nobody is to wait for one."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

"""A thread that ends on request, with a bounded wait for its end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

#: Default wait of `StoppableThread.stop` in seconds.
STOP_S = 5.0


class StoppableThread(threading.Thread):
    """A daemon thread with a timed `stop`: work that hangs does not prevent the program's end.

    Args:
        name: Shown in the log and in tracebacks.
        target: The work; a subclass may override `run` instead. It checks ``stopping``, or waits on it.
        wake: Called by `stop`, for work that does not wait on ``stopping``.

    """

    def __init__(
        self, name: str, target: Callable[[], object] | None = None, *, wake: Callable[[], object] | None = None
    ) -> None:
        super().__init__(name=name, target=target, daemon=True)
        self.stopping = threading.Event()
        self._wake = wake

    def ask_to_stop(self) -> None:
        """Ask the thread to end, without waiting for it."""
        self.stopping.set()
        if self._wake is not None:
            self._wake()

    def stop(self, timeout_s: float = STOP_S) -> bool:
        """Ask the thread to end, and wait for it. A thread that was never started counts as ended.

        Returns:
            Whether it has ended. One that has not is logged and abandoned; do not close the things that it uses.

        """
        self.ask_to_stop()
        if self.is_alive():
            self.join(max(0.0, timeout_s))
        if self.is_alive():
            log.error("thread %s does not end within %.3g s; it is abandoned", self.name, timeout_s)
            return False
        return True

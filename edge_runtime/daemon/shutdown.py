"""Ends a program in time after a stop signal, with its ledger closed, even if something hangs.

A source, a sink, a disk or an inference can block for ever, in the main thread too. systemd would then kill the
program, and the frames that the ledger has prepaid would be lost.
"""

from __future__ import annotations

import faulthandler
import logging
import math
import os
import queue
import time
from collections.abc import Callable
from typing import Literal

from split_model.service.stoppable_thread import StoppableThread

log = logging.getLogger(__name__)

#: Seconds without an answer after which the ledger is closed: nothing leaves any more, frames are finished here.
LEDGER_AFTER_S = 10.0
#: Seconds without an answer after which the program is ended. The unit's TimeoutStopSec is longer.
EXIT_AFTER_S = 20.0
#: Seconds after which the ledger is closed although answers still come: systemd does not wait much longer.
LEDGER_BY_S = 25.0
#: Seconds to wait for the ledger's last write to the disk.
_CLOSE_WITHIN_S = 3.0
_LOOK_EVERY_S = 0.25


Step = Literal["wait", "close the ledger", "leave"]


def next_step(*, running_s: float, quiet_s: float, frame_within_s: float, is_ledger_open: bool) -> Step:
    """Choose the next step for a program that received a stop signal and still runs.

    Args:
        running_s: Seconds since the signal.
        quiet_s: Seconds since the last answer, or since the signal.
        frame_within_s: How long one frame may take.
        is_ledger_open: False if an earlier step closed the ledger.

    """
    if is_ledger_open and (quiet_s >= LEDGER_AFTER_S or running_s >= LEDGER_BY_S):
        return "close the ledger"
    return "leave" if quiet_s >= max(EXIT_AFTER_S, frame_within_s) else "wait"


class Shutdown(StoppableThread):
    """Watches a shutdown: start it with the program, call `begin` at the signal and `over` at the end."""

    def __init__(self) -> None:
        super().__init__("shutdown", wake=self.begin)
        # A lock, as an Event has, could be taken twice by a signal handler; this queue's `put` may be called there.
        self._begun: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._answered_s = -math.inf
        self._close_ledger: Callable[[], None] = lambda: None
        self._frame_within_s: Callable[[], float] = lambda: 0.0

    def guard(self, close_ledger: Callable[[], None], *, frame_within_s: Callable[[], float]) -> None:
        """Begin to guard the ledger; call it before the first frame.

        Args:
            close_ledger: Closes the ledger and returns its prepaid frames.
            frame_within_s: How long one frame may take, in seconds; the program is not ended before that.

        """
        self._close_ledger, self._frame_within_s = close_ledger, frame_within_s

    def begin(self) -> None:
        """Begin the shutdown; safe in a signal handler, and to call twice."""
        self._begun.put(True)

    def answered(self) -> None:
        """Note that a frame was answered: the program is still at work."""
        self._answered_s = time.monotonic()

    def over(self) -> None:
        """Note that everything is closed; the thread ends."""
        self.stop(_CLOSE_WITHIN_S)

    def run(self) -> None:
        """Wait for `begin`, then for `over`, or end the program if it hangs."""
        self._begun.get()
        began_s = time.monotonic()
        is_ledger_open = True
        while not self.stopping.wait(_LOOK_EVERY_S):
            now_s = time.monotonic()
            quiet_s = now_s - max(began_s, self._answered_s)
            step = next_step(
                running_s=now_s - began_s,
                quiet_s=quiet_s,
                frame_within_s=self._frame_within_s(),
                is_ledger_open=is_ledger_open,
            )
            if step == "close the ledger":
                is_ledger_open = False
                log.warning("not ended after %.0f s: the ledger is closed, nothing leaves", now_s - began_s)
                self._close()
            elif step == "leave":
                log.error("no answer for %.0f s: the program ends without waiting for the part that hangs", quiet_s)
                faulthandler.dump_traceback(all_threads=True)
                os._exit(os.EX_SOFTWARE)  # no exit handler may wait for the part that hangs

    def _close(self) -> None:
        closing = StoppableThread("ledger-close", self._close_ledger)
        closing.start()
        if not closing.stop(_CLOSE_WITHIN_S):
            log.error("the ledger does not close within %.0f s; its prepaid frames are lost", _CLOSE_WITHIN_S)

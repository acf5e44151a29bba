"""Keeps one source of the config going: opens it, reads it in turns, and reopens it after a fault.

A turn is one opened source and the thread that reads it. A turn ends when its source ends or raises; it is
abandoned if a call of the source does not return in time. A thread that is stuck in a call cannot be ended: it is
left behind, and another one begins after a pause, up to three of them. If the call returns later, its thread ends.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from edge_runtime.sources.source import Frame, Source
from split_model.service.stoppable_thread import StoppableThread

log = logging.getLogger(__name__)

#: Default time limit of one call of a source, in seconds.
CALL_WITHIN_S = 30.0
#: Maximum number of threads of one source that are left behind; at this number, no more are begun.
MOST_LEFT_BEHIND = 3
#: Pause before a source is reopened, in seconds: the first and the longest.
RETRY_S = (1.0, 60.0)
#: After a turn that worked for this many seconds, the pause starts again at its first length.
_GOOD_S = 60.0
#: Seconds until a late call is checked again: perhaps the whole program stood still.
_LOOK_AGAIN_S = 0.4


@dataclass(frozen=True)
class Supply:
    """Opens a source, unless it is ``opened`` already; ``fault``: why it could not be opened."""

    open: Callable[[], Source]
    subject: str = "default"
    call_within_s: float = CALL_WITHIN_S
    opened: Source | None = None
    fault: Exception | None = None

    @classmethod
    def of(cls, source: Source, subject: str = "default", *, call_within_s: float = CALL_WITHIN_S) -> Supply:
        """A supply of an open source, which it returns each time."""
        return cls(lambda: source, subject, call_within_s, opened=source)


@dataclass(eq=False)
class Turn:
    """One opened source, and the thread that reads it.

    ``since_s``: when the source was called, or last showed life; None while no call is under way. ``source``: set
    once it is open. ``items``: the iterator over its frames, once begun. ``told_to_end``: the config no longer
    names it. ``left_behind``: the turn was abandoned.
    """

    source: Source | None = None
    thread: StoppableThread | None = None
    since_s: float | None = None
    items: Iterator[Frame | Callable[[], Frame]] | None = None
    told_to_end: bool = False
    left_behind: bool = False


@dataclass(eq=False)
class Lane:
    """One source's waiting frames, its turn and its faults. Guarded by the multiplexer's lock.

    ``ended``: it gives no more frames, and is not reopened. ``source``: the last one that was open. ``left_s``: the
    time since when the config no longer names it.
    """

    name: str
    supply: Supply
    waiting: deque[tuple[Turn, Frame | Callable[[], Frame]]] = field(default_factory=deque)
    frames: int = 0
    dropped: int = 0
    restarts: int = 0
    ended: bool = False
    left_s: float | None = None
    turn: Turn | None = None
    source: Source | None = None
    left_behind: list[Turn] = field(default_factory=list)
    error: BaseException | None = None
    _fault: str = ""
    _told: str = ""
    _good_since_s: float | None = None
    _suspected: tuple[float, float] | None = None  # the turn's since_s, and the time when that was found late
    _retry_at_s: float = 0.0
    _pause_s: float = RETRY_S[0]

    @property
    def is_broken(self) -> bool:
        """Whether the source has raised an error, and was not reopened since."""
        return self.error is not None

    def hangs_s(self, now_s: float) -> float:
        """Seconds since when a call is overdue; 0 if none is."""
        if self.turn is None or self.turn.since_s is None:
            return 0.0
        late_s = now_s - self.turn.since_s
        return late_s if late_s >= self.supply.call_within_s else 0.0

    def trouble(self, now_s: float) -> str:
        """The present fault in a few words, or empty."""
        if hangs_s := self.hangs_s(now_s):
            return f"hangs: a call has not returned for {hangs_s:.0f} s"
        if self._fault and not self._is_over(now_s):
            return self._fault
        return "" if self.source is None or self.ended else self.source.trouble

    def _is_over(self, now_s: float) -> bool:
        """Whether the last fault is past: a source that reopens and hangs again is still faulty."""
        good_s = self._good_since_s
        return good_s is not None and now_s - good_s > self.supply.call_within_s + _LOOK_AGAIN_S

    def begins(self, now_s: float) -> bool:
        """Whether another turn must begin now."""
        return self.turn is None and not self.ended and self.left_s is None and now_s >= self._retry_at_s

    def leaves(self, now_s: float) -> None:
        """Remove the source, which the config no longer names; accepted frames are still yielded."""
        self.left_s = now_s
        if self.turn is None:
            self.ended = True
        else:
            self.turn.told_to_end = True

    def hangs_for_good(self, now_s: float) -> bool:
        """Whether to abandon the source's turn: a call does not return, and few threads were abandoned before."""
        if not self.hangs_s(now_s) or self.turn is None or self.turn.since_s is None:
            self._suspected = None
            return False
        if self._suspected is None or self._suspected[0] != self.turn.since_s:
            self._suspected = self.turn.since_s, now_s
        if now_s - self._suspected[1] < _LOOK_AGAIN_S:
            return False
        self.left_behind = [turn for turn in self.left_behind if turn.thread is not None and turn.thread.is_alive()]
        return len(self.left_behind) < MOST_LEFT_BEHIND

    def leave_behind(self, now_s: float) -> Turn:
        """Abandon the turn; another one begins after a pause."""
        turn, self.turn = self.turn, None
        assert turn is not None
        turn.left_behind = True
        self.left_behind.append(turn)
        self._again(f"hangs: a call did not return within {self.supply.call_within_s:.3g} s", now_s)
        return turn

    def failed(self, error: BaseException, now_s: float) -> None:
        """Note that the source's turn ended with an error; the source is reopened after a pause."""
        self.turn = None
        self.error = error
        self._again(str(error) or type(error).__name__, now_s)

    def works(self, now_s: float, *, gave: bool = False) -> None:
        """Note that the source is open again, or ``gave`` a frame."""
        self.error = None
        if gave:
            self._fault = ""
        self.frames += gave
        if self._good_since_s is None:
            self._good_since_s = now_s

    def _again(self, fault: str, now_s: float) -> None:
        if self._good_since_s is not None and now_s - self._good_since_s >= _GOOD_S:
            self._told, self._pause_s = "", RETRY_S[0]
        self._good_since_s = None
        if fault != self._told:
            log.error("source %s: %s; tried again in %.3g s", self.name, fault, self._pause_s)
        self._fault = self._told = fault
        self._retry_at_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, RETRY_S[1])
        self.restarts += 1

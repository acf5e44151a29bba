"""The board thread: it does the board's work and nothing else, so that one piece begins where the last one ends.

Planning, paying, sending and writing down go on beside it, in the frame loop's thread. An interpreter and NumPy let
go of Python's lock while they compute, so the two really run at the same time where there is a core for both.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Piece:
    work: Callable[[], Any]
    expected_s: float
    future: Future[Any]


class BoardThread:
    """Give it pieces of work with `do`, from one other thread; `close` it at the end.

    ``done`` is called in the board thread each time that a future has its result. By then the next piece is the one
    that `left_s` and ``waiting`` speak of: who is woken by ``done`` sees the board as it is. Each piece is done
    within a ``watch()``.
    """

    def __init__(
        self,
        done: Callable[[], None],
        *,
        now: Callable[[], float] = time.monotonic,
        watch: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._done = done
        self._watch = watch
        self._now = now
        self._changed = threading.Condition()
        self._present: _Piece | None = None
        self._present_until_s = -math.inf
        self._waiting: deque[_Piece] = deque()
        self._urgent = 0  # so many of those that wait go first
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="board", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Pieces that are not to begin yet."""
        with self._changed:
            return len(self._waiting)

    def left_s(self) -> tuple[float, float]:
        """How long until one that is put ``first`` begins, and how long the present piece takes in all.

        Zeros where there is none. Of a piece that takes longer than was expected nothing is left.
        """
        with self._changed:
            if self._present is None:
                return 0.0, 0.0
            urgent = [
                piece.expected_s for piece in islice(self._waiting, self._urgent) if not piece.future.cancelled()
            ]
            return max(0.0, self._present_until_s - self._now()) + sum(urgent), self._present.expected_s

    def do(self, work: Callable[[], T], *, expected_s: float, first: bool = False) -> Future[T]:
        """Do a piece of work after those that wait or, with ``first``, before them; it may be cancelled.

        ``expected_s``: what it will take.
        """
        piece = _Piece(work, expected_s, Future())
        with self._changed:
            if self._present is None:
                self._begin(piece)
                self._changed.notify()
            elif first:
                self._waiting.insert(self._urgent, piece)
                self._urgent += 1
            else:
                self._waiting.append(piece)
        return piece.future

    def close(self) -> None:
        """Wait for a piece that goes on; what has not begun is cancelled."""
        with self._changed:
            self._closing = True
            left = [*self._waiting] if self._present is None else [self._present, *self._waiting]
            self._waiting.clear()
            self._changed.notify()
        for piece in left:
            piece.future.cancel()
        self._thread.join()

    def _begin(self, piece: _Piece) -> None:
        self._present, self._present_until_s = piece, self._now() + piece.expected_s

    def _run(self) -> None:
        while (piece := self._take()) is not None:
            with self._watch():
                tell = _ran(piece)
            with self._changed:
                self._present = None
                if self._waiting:
                    self._begin(self._waiting.popleft())
                    self._urgent = max(0, self._urgent - 1)
            tell()
            self._done()
            del piece, tell  # nothing of it is held while the next one goes on

    def _take(self) -> _Piece | None:
        with self._changed:
            while self._present is None and not self._closing:
                self._changed.wait()
            return None if self._closing else self._present


def _ran(piece: _Piece) -> Callable[[], None]:
    """Do a piece; returns what hands its result, or what it raised, to whoever asks for it."""
    future = piece.future
    if not future.set_running_or_notify_cancel():
        return lambda: None
    try:
        result = piece.work()
    except BaseException as error:  # noqa: BLE001  whatever it is, the future raises it in the frame loop
        raised = error
        return lambda: future.set_exception(raised)
    return lambda: future.set_result(result)

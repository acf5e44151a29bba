"""A thread for the board's work only, so that one piece begins as soon as the last one ends.

Planning, paying, sending and recording run in the frame loop's thread at the same time. The interpreter and NumPy
release Python's lock while they compute, so both threads really run at once if there is a core for each.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec

from split_model.service.stoppable_thread import StoppableThread

#: Seconds to wait for the last piece at the end; work that takes longer hangs, and is abandoned.
_PIECE_WITHIN_S = 60.0


class Ended(msgspec.Struct, frozen=True):
    """How a piece of work ended: its ``value``, or the ``error`` that it raised, or ``skipped``."""

    piece: int
    value: Any = None
    error: BaseException | None = None
    skipped: bool = False


class BoardThread:
    """Runs pieces of work in order. Add them with `do`, from one other thread; `close` it at the end.

    Args:
        name: of the thread, which starts with the first piece.
        ended: called in the thread when a piece has ended, in the order in which they do.
        watch: each piece is done within a ``watch()``.

    """

    def __init__(
        self,
        name: str,
        ended: Callable[[Ended], None],
        *,
        watch: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._ended = ended
        self._watch = watch
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, Callable[[], Any]]] = deque()
        self._urgent = 0  # how many of the waiting ones go first
        self._next = 0  # 1 while the one that an idle thread was given is not taken: none goes before it
        self._busy = False
        self._unwanted: set[int] = set()
        self._thread = StoppableThread(name, self._run, wake=self._wake)

    def do(self, piece: int, work: Callable[[], Any], *, first: bool = False) -> None:
        """Add a piece of work after the waiting ones or, with ``first``, before those that are not ``first``."""
        with self._changed:
            if first and self._busy:
                self._waiting.insert(self._next + self._urgent, (piece, work))
                self._urgent += 1
            else:
                self._waiting.append((piece, work))
            if not self._busy:
                self._busy = True
                self._next = 1
            if self._thread.ident is None:
                self._thread.start()
            self._changed.notify()

    def skip(self, piece: int) -> None:
        """Skip a piece; if it has begun, it goes on."""
        with self._changed:
            if any(number == piece for number, _ in self._waiting):
                self._unwanted.add(piece)

    def close(self) -> None:
        """Begin nothing more, and wait for the piece under way."""
        self._thread.stop(_PIECE_WITHIN_S)

    def _wake(self) -> None:
        with self._changed:
            self._waiting.clear()
            self._changed.notify()

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            piece, work = taken
            del taken
            if self._is_unwanted(piece):
                ended = Ended(piece, skipped=True)
            else:
                with self._watch():
                    ended = _ran(piece, work)
            self._ended(ended)
            del work, ended  # free its memory before the next one runs

    def _take(self) -> tuple[int, Callable[[], Any]] | None:
        with self._changed:
            while not self._waiting and not self._thread.stopping.is_set():
                self._busy = False
                self._changed.wait()
            if self._thread.stopping.is_set():
                return None
            if self._next:
                self._next = 0
            else:
                self._urgent = max(0, self._urgent - 1)
            return self._waiting.popleft()

    def _is_unwanted(self, piece: int) -> bool:
        with self._changed:
            if piece in self._unwanted:
                self._unwanted.discard(piece)
                return True
            return False


def _ran(piece: int, work: Callable[[], Any]) -> Ended:
    try:
        return Ended(piece, work())
    except BaseException as error:  # noqa: BLE001  whatever it is, the frame loop raises it
        return Ended(piece, error=error)

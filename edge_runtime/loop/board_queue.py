"""The queue of one worker of the board: pieces of work in order, with their expected times. Pure.

The board has two workers: one for heads and releases, one for local runs. So a head never waits for a local run
that may not be needed, and a local run that rescues a frame never waits for the head of a later one.

`busy` and `waiting` are the real state of the worker. `left_s` and `wait_s` are predictions from expected times,
even if the work is done by now: the real time of work may depend on the content of its frame, and the predicted
wait decides whether a later frame is sent, which the server sees.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from enum import Enum, auto

import msgspec


class Worker(Enum):
    """The worker that does a piece of work."""

    HEADS = auto()
    LOCAL_RUNS = auto()

    __hash__ = object.__hash__  # members are compared by identity; Enum's own is Python code


class Work(Enum):
    """The kinds of work, each with the ``worker`` that does it."""

    HEAD = 1, Worker.HEADS
    RELEASE = 2, Worker.HEADS
    HEAD_AND_RELEASE = 3, Worker.HEADS
    LOCAL_TAIL = 4, Worker.LOCAL_RUNS
    WHOLE_MODEL = 5, Worker.LOCAL_RUNS

    def __init__(self, _number: int, worker: Worker) -> None:
        self.worker = worker


class Piece(msgspec.Struct, frozen=True):
    """A piece of work on one frame, and the seconds that it is expected to take."""

    number: int
    key: int
    work: Work
    expected_s: float


class BoardQueue:
    """The pieces of one worker, in order of their start; the first one is under way."""

    def __init__(self) -> None:
        self._present: Piece | None = None
        self._waiting: deque[Piece] = deque()
        self._urgent = 0
        self._cancelled: set[int] = set()
        self._expected = _Expected()

    @property
    def busy(self) -> bool:
        """Whether a piece is under way."""
        return self._present is not None

    @property
    def expects_work(self) -> bool:
        """Whether a piece is expected to be under way; `wait_s` is its expected rest."""
        return bool(self._expected.pieces)

    @property
    def waiting(self) -> int:
        """Number of pieces that have not begun and were not cancelled."""
        return sum(piece.number not in self._cancelled for piece in self._waiting)

    def put(self, piece: Piece, *, now_s: float, first: bool = False) -> None:
        """Add a piece at the end or, with ``first``, before those that are not ``first`` themselves."""
        self._expected.put(piece, now_s, first=first)
        if self._present is None:
            self._present = piece
        elif first:
            self._waiting.insert(self._urgent, piece)
            self._urgent += 1
        else:
            self._waiting.append(piece)

    def cancel(self, number: int, *, now_s: float) -> None:
        """Cancel a piece; it stays here until the worker reports it as done or skipped."""
        self._cancelled.add(number)
        self._expected.cancel(number, now_s)

    def pieces(self) -> list[int]:
        """The numbers of all pieces that are under way or wait."""
        present = [] if self._present is None else [self._present.number]
        return present + [piece.number for piece in self._waiting]

    def holds(self, number: int) -> bool:
        """Whether a piece is under way or waits."""
        return number in self.pieces()

    def ended(self, number: int) -> Piece | None:
        """Remove a piece that is done, failed or skipped; the next one begins. None if it is not here."""
        self._cancelled.discard(number)
        if self._present is not None and self._present.number == number:
            ended, self._present = self._present, None
            if self._waiting:
                self._urgent = max(0, self._urgent - 1)
                self._present = self._waiting.popleft()
            return ended
        for place, piece in enumerate(self._waiting):  # the worker was faster than its reports
            if piece.number == number:
                del self._waiting[place]
                self._urgent -= place < self._urgent
                return piece
        return None

    def all_done(self) -> None:
        """Expect no more work: every frame has its result, the last one by a piece of this queue."""
        if self._expected.pieces:
            self._expected.clear()

    def left_s(self, now_s: float) -> tuple[float, float]:
        """Expected seconds until a piece that is put ``first`` begins, and the whole time of the present one.

        Both are zero if no piece is expected to be under way.
        """
        return self._expected.left_s(now_s)

    def wait_s(self, now_s: float) -> float:
        """Expected seconds until a piece that is put last begins."""
        return self._expected.wait_s(now_s)


class _Expected:
    """The pieces with their expected times, in expected order; the first one is under way."""

    def __init__(self) -> None:
        self.pieces: deque[Piece] = deque()
        self._until_s = -math.inf
        self._urgent = 0  # of the pieces after the first

    def put(self, piece: Piece, now_s: float, *, first: bool) -> None:
        if self.pieces:
            self._pass(now_s)
        if not self.pieces:
            self._until_s = now_s + piece.expected_s
            self.pieces.append(piece)
        elif first:
            self.pieces.insert(1 + self._urgent, piece)
            self._urgent += 1
        else:
            self.pieces.append(piece)

    def cancel(self, number: int, now_s: float) -> None:
        """One that has begun goes on."""
        self._pass(now_s)
        place = next((place for place, piece in enumerate(self.pieces) if piece.number == number), 0)
        if place:
            del self.pieces[place]
            self._urgent -= place <= self._urgent

    def clear(self) -> None:
        self.pieces.clear()
        self._urgent = 0

    def left_s(self, now_s: float) -> tuple[float, float]:
        self._pass(now_s)
        if not self.pieces:
            return 0.0, 0.0
        urgent_s = sum(piece.expected_s for piece in list(self.pieces)[1 : 1 + self._urgent])
        return self._until_s - now_s + urgent_s, self.pieces[0].expected_s

    def wait_s(self, now_s: float) -> float:
        self._pass(now_s)
        if not self.pieces:
            return 0.0
        return self._until_s - now_s + sum(piece.expected_s for piece in list(self.pieces)[1:])

    def _pass(self, now_s: float) -> None:
        """Remove the pieces that should be done by now."""
        while self.pieces and self._until_s <= now_s:
            self.pieces.popleft()
            if self.pieces:
                self._urgent = max(0, self._urgent - 1)
                self._until_s += self.pieces[0].expected_s


def end_piece(queues: Mapping[Worker, BoardQueue], number: int) -> Piece:
    """Remove an ended piece from its queue, see `BoardQueue.ended`; `ValueError` if it is in none of them."""
    for queue in queues.values():
        if (piece := queue.ended(number)) is not None:
            return piece
    raise ValueError(f"piece {number} of the board's work is not under way")

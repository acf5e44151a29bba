"""The work that waits for one worker of the board: what is next, and how long it will take. Pure.

The board has two workers: one runs heads and releases, one local runs. So a head never waits for a local run that
may be for nothing, and a local run that rescues a frame never waits for the head of a later one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto


class Worker(Enum):
    """Who does a piece of work."""

    HEADS = auto()
    LOCAL_RUNS = auto()


class Work(Enum):
    """What a piece of work is."""

    HEAD = auto()
    RELEASE = auto()
    HEAD_AND_RELEASE = auto()
    LOCAL_TAIL = auto()
    WHOLE_MODEL = auto()

    @property
    def worker(self) -> Worker:
        """Who does it."""
        return Worker.LOCAL_RUNS if self in (Work.LOCAL_TAIL, Work.WHOLE_MODEL) else Worker.HEADS


@dataclass(frozen=True)
class Piece:
    """A piece of work on one frame, and the seconds that it is expected to take."""

    number: int
    key: int
    work: Work
    expected_s: float


class BoardQueue:
    """The pieces of one worker, in the order in which they begin; the first one is under way."""

    def __init__(self) -> None:
        self._present: Piece | None = None
        self._until_s = -math.inf
        self._waiting: deque[Piece] = deque()
        self._urgent = 0
        self._cancelled: set[int] = set()

    @property
    def busy(self) -> bool:
        """Whether a piece is under way."""
        return self._present is not None

    @property
    def waiting(self) -> int:
        """Pieces that have not begun and are still wanted."""
        return sum(piece.number not in self._cancelled for piece in self._waiting)

    def put(self, piece: Piece, *, now_s: float, first: bool = False) -> None:
        """Add a piece behind all others or, with ``first``, before those that are not ``first`` themselves."""
        if self._present is None:
            self._begin(piece, now_s)
        elif first:
            self._waiting.insert(self._urgent, piece)
            self._urgent += 1
        else:
            self._waiting.append(piece)

    def cancel(self, number: int) -> None:
        """A piece is no longer wanted; it stays here until the worker says that it is done or was left out."""
        self._cancelled.add(number)

    def pieces(self) -> list[int]:
        """The numbers of all pieces that are under way or wait."""
        present = [] if self._present is None else [self._present.number]
        return present + [piece.number for piece in self._waiting]

    def holds(self, number: int) -> bool:
        """Whether a piece is under way or waits."""
        return number in self.pieces()

    def is_cancelled(self, number: int) -> bool:
        """Whether a piece was cancelled."""
        return number in self._cancelled

    def ended(self, number: int, *, now_s: float) -> Piece:
        """A piece is done, failed, or was left out: it leaves, and the next one begins."""
        self._cancelled.discard(number)
        if self._present is not None and self._present.number == number:
            ended, self._present = self._present, None
            if self._waiting:
                self._urgent = max(0, self._urgent - 1)
                self._begin(self._waiting.popleft(), now_s)
            return ended
        for place, piece in enumerate(self._waiting):  # the worker was faster than what is heard of it
            if piece.number == number:
                del self._waiting[place]
                self._urgent -= place < self._urgent
                return piece
        raise ValueError(f"piece {number} is not here")

    def left_s(self, now_s: float) -> tuple[float, float]:
        """Seconds until a piece that is put ``first`` begins, and what the present one takes in all.

        Zeros where there is none. Of a piece that takes longer than was expected nothing is left.
        """
        if self._present is None:
            return 0.0, 0.0
        urgent_s = sum(p.expected_s for p in list(self._waiting)[: self._urgent] if not self.is_cancelled(p.number))
        return max(0.0, self._until_s - now_s) + urgent_s, self._present.expected_s

    def wait_s(self, now_s: float) -> float:
        """Seconds until a piece that is put last begins."""
        if self._present is None:
            return 0.0
        waiting_s = sum(piece.expected_s for piece in self._waiting if not self.is_cancelled(piece.number))
        return max(0.0, self._until_s - now_s) + waiting_s

    def _begin(self, piece: Piece, now_s: float) -> None:
        self._present, self._until_s = piece, now_s + piece.expected_s


def end_piece(queues: Mapping[Worker, BoardQueue], number: int, *, now_s: float) -> Piece:
    """A piece of one of these queues has ended, see `BoardQueue.ended`; `ValueError` for one that is in none."""
    for queue in queues.values():
        if queue.holds(number):
            return queue.ended(number, now_s=now_s)
    raise ValueError(f"piece {number} of the board's work is not under way")

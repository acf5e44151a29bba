"""What the scheduler tells its driver to do, and what it hears of a piece of work that is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.loop.board_queue import Work, Worker
from edge_runtime.loop.results import Step


@dataclass(frozen=True)
class Reserve:
    """Reserve the link for a frame; ``offloaded``: it will need it soon, probes are to keep out of its way."""

    key: int
    offloaded: bool


@dataclass(frozen=True)
class Ask:
    """Ask the server whether a request at this cut would be answered in time; the answer is in the link's view."""

    key: int
    cut: int
    due_in_s: float


@dataclass(frozen=True)
class Run:
    """Do a piece of work on the board, behind those that wait for its worker or, with ``first``, before them.

    ``alone``: nothing else is under way, so it may run in the loop's own thread. ``keep``: keep the features that a
    head makes, for a local tail. ``slot_s``: it ends that long after it began, or at the next multiple; 0 for when
    it is done.
    """

    piece: int
    key: int
    work: Work
    head: object | None = None
    first: bool = False
    alone: bool = False
    keep: bool = False
    slot_s: float = 0.0


@dataclass(frozen=True)
class Skip:
    """Do not begin a piece of work that waits; it still has to be told of as done or skipped."""

    piece: int
    worker: Worker


@dataclass(frozen=True)
class PayAndSend:
    """Charge the ledger for a release and then, if that succeeded, send it."""

    key: int
    head: object
    cut: int
    due_at_s: float


@dataclass(frozen=True)
class FreeLink:
    """The frame does not need the link any more: cancel what was sent and not answered, and let probes go."""

    key: int


@dataclass(frozen=True)
class Emit:
    """Hand on the result of a frame."""

    key: int
    step: Step


Action = Reserve | Ask | Run | Skip | PayAndSend | FreeLink | Emit


@dataclass(frozen=True)
class Done:
    """What a piece of work took and made: seconds, and of a release its bytes, of a local run the outputs."""

    took_s: float
    release_s: float = 0.0
    payload_bytes: int = 0
    outputs: Sequence[Any] = field(default_factory=tuple)

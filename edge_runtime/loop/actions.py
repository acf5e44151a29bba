"""The actions that the scheduler requests of its driver, and the report of a finished piece of work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from edge_runtime.loop.board_queue import Work, Worker
from edge_runtime.loop.results import Step
from edge_runtime.sources import Frame


class Reserve(msgspec.Struct, frozen=True):
    """Reserve the links for a frame; ``offloaded``: it will soon need the one to ``server``: no probes there."""

    key: int
    offloaded: bool
    server: int = 0


class Ask(msgspec.Struct, frozen=True):
    """Ask a server whether a request at this cut would be answered in time; the answer is in the link's view."""

    key: int
    cut: int
    due_in_s: float
    server: int = 0


class Run(msgspec.Struct, frozen=True):
    """Do a piece of work on the board, after the waiting ones of its worker or, with ``first``, before them.

    ``alone``: nothing else is under way, so it may run in the loop's own thread. ``keep``: keep the features that a
    head makes, for a local tail. ``slot_s``: it ends this many seconds after its start, or at the next multiple; 0:
    as soon as it is done.
    """

    piece: int
    key: int
    frame: Frame
    work: Work
    head: object | None = None
    first: bool = False
    alone: bool = False
    keep: bool = False
    slot_s: float = 0.0


class Skip(msgspec.Struct, frozen=True):
    """Skip a waiting piece of work, if it has not begun; it is still reported as done or skipped."""

    piece: int
    worker: Worker


class PayAndSend(msgspec.Struct, frozen=True):
    """Charge the subject's account for a release and then, if that succeeded, send it to a server."""

    key: int
    subject: str
    head: object
    cut: int
    due_at_s: float
    server: int = 0


class SendAgain(msgspec.Struct, frozen=True):
    """Send the same bytes of a sent release to another server, too. It is paid for: charge nothing."""

    key: int
    server: int


class FreeLink(msgspec.Struct, frozen=True):
    """Release the frame's reservations of the links: cancel its open requests, and allow probes again."""

    key: int


class Emit(msgspec.Struct, frozen=True):
    """Yield the result of a frame."""

    key: int
    step: Step


Action = Reserve | Ask | Run | Skip | PayAndSend | SendAgain | FreeLink | Emit


class Done(msgspec.Struct, frozen=True):
    """A finished piece of work: its seconds, the bytes of a release, and the outputs of a local run."""

    took_s: float
    release_s: float = 0.0
    payload_bytes: int = 0
    outputs: Sequence[Any] = ()

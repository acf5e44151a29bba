"""The output of the frame loop: a frame's result, and the step around it."""

from __future__ import annotations

from typing import Any

import msgspec
from numpy.typing import NDArray

from edge_runtime.link.link_view import LinkView
from edge_runtime.loop.counters import Outcome
from edge_runtime.planner.planner import Decision
from edge_runtime.sources import Frame

Array = NDArray[Any]


class Result(msgspec.Struct):
    """How one frame ended, with every part of its latency that was measured, in seconds.

    ``hedged``: the board went on behind the head while the server was at it. ``server``: the number of the one that
    answered. ``servers``: those that its release was sent to, in this order.
    """

    frame: Frame
    outcome: Outcome
    split: int
    outputs: list[Array]
    latency_s: float
    payload_bytes: int = 0
    hedged: bool = False
    error: str = ""
    parts: dict[str, float] = msgspec.field(default_factory=dict)
    server: int | None = None
    servers: tuple[int, ...] = ()


class Step(msgspec.Struct, frozen=True):
    """What the loop hands to its caller for each frame that is done.

    ``view``: the link to the frame's server when it was planned.
    """

    result: Result
    decision: Decision
    view: LinkView
    load: float
    cpu_load: float

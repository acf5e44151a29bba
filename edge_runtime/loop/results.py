"""The output of the frame loop: a frame's result, and the step that contains it."""

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
    """The outcome of one frame, with the measured parts of its latency in seconds.

    ``hedged``: the board continued after the head while the server worked on the frame. ``server``: the number of
    the one that answered. ``servers``: those that its release was sent to, in this order.
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
    """The loop's output for each frame that is done.

    ``view``: the link to the frame's server when it was planned.
    """

    result: Result
    decision: Decision
    view: LinkView
    load: float
    cpu_load: float

"""What the frame loop hands on: a frame's result, the step around it, and a frame that is under way."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from edge_runtime.inference.heads import Head
from edge_runtime.link.frame_link import Reservation
from edge_runtime.link.view import LinkView
from edge_runtime.loop.counters import How
from edge_runtime.planner.deadline import InFlight
from edge_runtime.planner.planner import Decision
from edge_runtime.planner.prediction import Prediction
from edge_runtime.sources import Frame

Array = NDArray[Any]


@dataclass
class Result:
    """How one frame ended, with every part of its latency that was measured, in seconds.

    ``hedged``: the board went on behind the head while the server was at it.
    """

    frame: Frame
    how: How
    split: int
    outputs: list[Array]
    latency_s: float
    payload_bytes: int = 0
    hedged: bool = False
    error: str = ""
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """What the loop hands to its caller after each frame."""

    result: Result
    decision: Decision
    view: LinkView
    load: float
    cpu_load: float


@dataclass
class Sent:
    """A frame whose release is on its way to the server; ``expected`` is what was predicted for it."""

    frame: Frame
    head: Head
    reservation: Reservation
    expected: Prediction | None
    submitted_s: float
    parts: dict[str, float]
    hedged: bool = False

    def in_flight(self, since_s: float, acked_bytes: int = 0) -> InFlight:
        """As the deadlines see it, with the link for itself since then."""
        request = InFlight(since_s, 0.0, self.head.release.payload_bytes, acked_bytes)
        if (expected := self.expected) is None:
            return request
        expected_s = expected.total_s - expected.head_s
        return replace(
            request, expected_s=expected_s, transfer_s=expected.transfer_s, round_trip_s=expected.round_trip_s
        )

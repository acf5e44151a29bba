"""The states of one frame, from its plan to its result, and the transitions between them.

A frame is in exactly one state; transitions that are not in `TRANSITIONS` cannot happen::

    PLANNED ──► HEAD ──► RELEASE ──► PAYING ──► AWAY ◄──► RACING
       │         │          │          │         │          │
       └─────────┴──────────┴──► LOCAL ◄─────────┴──────────┤
                                  │              │          │
                                  └──────► DONE ◄┴──────────┘

AWAY: only a server can answer. RACING: a server or a local run can answer, and the first one counts. LOCAL: only a
    local run can answer. In AWAY and RACING the release may also be sent to another server; that changes no state.
"""

from __future__ import annotations

import math
from enum import Enum, auto

import msgspec
from msgspec.structs import replace

from edge_runtime.link.link_view import LinkView
from edge_runtime.loop.frame_decisions import Plan
from edge_runtime.planner.deadline import InFlight
from edge_runtime.planner.prediction import Prediction
from edge_runtime.sources import Frame


class State(Enum):
    """The state of a frame."""

    PLANNED = auto()
    HEAD = auto()
    RELEASE = auto()
    PAYING = auto()
    AWAY = auto()
    RACING = auto()
    LOCAL = auto()
    DONE = auto()

    __hash__ = object.__hash__  # members are compared by identity; Enum's own is Python code


class Input(Enum):
    """The events of a frame."""

    BEGINS = auto()
    """Its head is to run."""
    STAYS = auto()
    """It is finished on this board: planned so, decided after the head, or its head or release failed."""
    RELEASES = auto()
    """The head is done, and its features are to be released."""
    RELEASED = auto()
    """The release is made; it is paid for before anything is sent."""
    UNPAID = auto()
    SENT = auto()
    OVERDUE = auto()
    """A local run begins beside the server: a hedge, or because the answer would be late."""
    ANSWERED = auto()
    REFUSED = auto()
    """No server will answer this request."""
    RAN = auto()
    """The local run is done."""
    FAILED = auto()
    """No answer is possible: the source could not read it, or the whole model fails."""

    __hash__ = object.__hash__


TRANSITIONS: dict[tuple[State, Input], State] = {
    (State.PLANNED, Input.BEGINS): State.HEAD,
    (State.PLANNED, Input.STAYS): State.LOCAL,
    (State.PLANNED, Input.FAILED): State.DONE,
    (State.HEAD, Input.STAYS): State.LOCAL,
    (State.HEAD, Input.RELEASES): State.RELEASE,
    (State.HEAD, Input.RELEASED): State.PAYING,
    (State.RELEASE, Input.STAYS): State.LOCAL,
    (State.RELEASE, Input.RELEASED): State.PAYING,
    (State.PAYING, Input.UNPAID): State.LOCAL,
    (State.PAYING, Input.SENT): State.AWAY,
    (State.AWAY, Input.OVERDUE): State.RACING,
    (State.AWAY, Input.ANSWERED): State.DONE,
    (State.AWAY, Input.REFUSED): State.LOCAL,
    (State.RACING, Input.ANSWERED): State.DONE,
    (State.RACING, Input.REFUSED): State.LOCAL,
    (State.RACING, Input.RAN): State.DONE,
    (State.RACING, Input.FAILED): State.DONE,
    (State.LOCAL, Input.RAN): State.DONE,
    (State.LOCAL, Input.FAILED): State.DONE,
}

#: The states in which a server may still answer.
ON_THE_LINK = frozenset({State.AWAY, State.RACING})


class Sent(msgspec.Struct, eq=False):
    """One request for a frame, to one server.

    Args:
        expected: its prediction, if there is one.
        ahead: number of requests that were at this server before it; ``first_s``: the time when the last of them
            ended.
        progress_s: when ``acked_bytes`` last grew.
        is_open: False once this server has refused it.

    """

    server: int
    sent_s: float
    expected: Prediction | None
    ahead: int = 0
    first_s: float = -math.inf
    acked_bytes: int = 0
    progress_s: float = -math.inf
    is_open: bool = True

    def in_flight(self, payload_bytes: int, *, silent: bool = False) -> InFlight:
        """The request as `planner.deadline` takes it."""
        since_s = self.first_s if self.first_s > -math.inf else self.sent_s
        request = InFlight(since_s, 0.0, payload_bytes, self.acked_bytes)
        request = replace(request, progress_s=self.progress_s, silent=silent)
        if (expected := self.expected) is None:
            return request
        expected_s = expected.total_s - expected.head_s
        if self.first_s == -math.inf:  # it still waits for the requests before it
            return replace(request, expected_s=expected_s + self.ahead * expected.bottleneck_s)
        # With other requests before it, the start of its transfer is unknown.
        transfer_s = math.inf if self.ahead else expected.transfer_s
        return replace(request, expected_s=expected_s, transfer_s=transfer_s, round_trip_s=expected.round_trip_s)


class UnderWay(msgspec.Struct, eq=False):
    """A frame that has no result yet.

    Args:
        link: the state of the link to its server when the frame was planned.
        server: its destination if it is sent.
        unpaid: it was planned while the ledger could not pay for every cut.
        keeps_features: a local tail can continue after its head.
        hedge: a local run shall begin together with the transfer; ``hedged``: it has begun.
        expected: the prediction for sending it when its head was done.
        local_piece: the number of its local run on the board.
        due_at_s: when the servers give it up.
        sent: its requests, the latest last, all with the same release.

    """

    key: int
    frame: Frame
    plan: Plan
    link: LinkView
    server: int = 0
    unpaid: bool = False
    keeps_features: bool = False
    hedge: bool = False
    hedged: bool = False
    state: State = State.PLANNED
    head_s: float = 0.0
    release_s: float | None = None
    payload_bytes: int = 0
    expected: Prediction | None = None
    local_piece: int | None = None
    due_at_s: float = math.inf
    sent: list[Sent] = msgspec.field(default_factory=list)

    @property
    def split(self) -> int:
        """The cut whose head runs for this frame, or the split that runs the whole model on this board."""
        return self.plan.split

    @property
    def sent_s(self) -> float | None:
        """The time when the frame was first sent; None before that."""
        return self.sent[0].sent_s if self.sent else None

    @property
    def latest(self) -> Sent:
        """The request that is expected to be answered: the latest one that was not refused."""
        return next((sent for sent in reversed(self.sent) if sent.is_open), self.sent[-1])

    @property
    def reserves_link(self) -> bool:
        """Whether the frame needs the link: it may be sent after its head, or asks the server first."""
        return self.plan.head is not None or self.plan.question is not None

    @property
    def on_the_link(self) -> bool:
        """Whether a server may still answer the frame."""
        return self.state in ON_THE_LINK

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of head and release of a frame that was sent."""
        return {} if self.release_s is None else {"head_s": self.head_s, "release_s": self.release_s}

    def step(self, what: Input) -> None:
        """Change the state by an event; `ValueError` for a transition that is not in the table."""
        try:
            self.state = TRANSITIONS[self.state, what]
        except KeyError:
            raise ValueError(
                f"frame {self.frame.index}: {what.name} cannot happen while it is {self.state.name}"
            ) from None

    def refused_by(self, server: int) -> bool:
        """Note that a server will not answer; returns whether another one still may."""
        for sent in self.sent:
            sent.is_open = sent.is_open and sent.server != server
        return any(sent.is_open for sent in self.sent)

"""The link at one moment, for the rest of the program, and how a request ended at the server."""

from __future__ import annotations

import msgspec

from edge_runtime.link.estimator import LinkEstimate
from edge_runtime.link.tcp_info import TcpInfo
from edge_runtime.link.trouble import Trouble
from split_model.protocol import messages as wire
from split_model.protocol.device import Answered, Refused


class Advice(msgspec.Struct, frozen=True):
    """The server's word on a request at a cut, asked for before it was made; ``at_s``: when it came."""

    bundle: str
    cut: int
    load: wire.Load
    at_s: float


class LinkView(msgspec.Struct, frozen=True):
    """The link at one moment.

    ``trouble`` says why it is not up, ``problem`` and ``remedy`` say it to the user; all empty while it is up.
    ``queue_s``: how long a new request waits, behind others in our own socket, and at the server.
    ``can_ask``: whether the server can be asked before a request; ``advice``: its last answer.
    ``late``: answers that nobody waited for any more. ``reconnects``: times that the server welcomed us again.
    Both only grow.
    """

    up: bool
    trouble: Trouble
    problem: str
    remedy: str
    offers: tuple[wire.Offer, ...]
    request_bytes: int
    estimate: LinkEstimate
    queue_s: float
    late: int
    reconnects: int
    tcp: TcpInfo | None = None
    can_ask: bool = False
    advice: Advice | None = None

    @property
    def trouble_line(self) -> str:
        """Problem and remedy in one line; empty while the link is up."""
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem


class Outcome(msgspec.Struct, frozen=True):
    """How a request ended at the server: answered or refused, one of the two."""

    at_s: float
    answered: Answered | None = None
    refusal: Refused | None = None

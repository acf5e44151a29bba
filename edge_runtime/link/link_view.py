"""The state of the link at one moment, and the outcome of a request."""

from __future__ import annotations

import msgspec

from edge_runtime.link.estimator import LinkEstimate
from edge_runtime.link.tcp_info import TcpInfo
from edge_runtime.link.trouble import Trouble
from split_model.protocol import messages as wire
from split_model.protocol.device import Answered, Refused


class Advice(msgspec.Struct, frozen=True):
    """The server's answer to a question about a possible request at a cut; ``at_s``: when it came."""

    bundle: str
    cut: int
    load: wire.Load
    at_s: float


class LinkView(msgspec.Struct, frozen=True):
    """The link at one moment.

    ``trouble``: why it is not up, with ``problem`` and ``remedy`` as text for the user; all empty while it is up.
    ``queue_s``: seconds that a new request waits, in our own socket and at the server.
    ``can_ask``: whether the server can be asked before a request; ``advice``: its last answer.
    ``late``: answers that came after their request was given up. ``reconnects``: number of reconnections. Both only
    grow.
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
    """The outcome of a request: an answer or a refusal, never both."""

    at_s: float
    answered: Answered | None = None
    refusal: Refused | None = None

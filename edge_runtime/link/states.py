"""States, events and actions of the link's policy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from edge_runtime.link.link_view import LinkView, Outcome


class TransportEvent(Enum):
    """What happened to the connection under the socket."""

    READY = auto()
    LOST = auto()
    REFUSED = auto()
    BROKEN_HANDSHAKE = auto()


class Phase(Enum):
    """The state of the link."""

    PAUSED = auto()
    CONNECTING = auto()
    GREETING = auto()
    UP = auto()


class Input(Enum):
    """The events of the link."""

    OPEN = auto()
    READY = auto()
    WELCOME = auto()
    FORGOTTEN = auto()
    LOST = auto()
    FAIL = auto()


TRANSITIONS: dict[tuple[Phase, Input], Phase] = {
    (Phase.PAUSED, Input.OPEN): Phase.CONNECTING,
    (Phase.CONNECTING, Input.READY): Phase.GREETING,
    (Phase.GREETING, Input.READY): Phase.GREETING,
    (Phase.UP, Input.READY): Phase.GREETING,
    (Phase.GREETING, Input.WELCOME): Phase.UP,
    (Phase.UP, Input.FORGOTTEN): Phase.GREETING,
    (Phase.CONNECTING, Input.LOST): Phase.CONNECTING,
    (Phase.GREETING, Input.LOST): Phase.CONNECTING,
    (Phase.UP, Input.LOST): Phase.CONNECTING,
    (Phase.CONNECTING, Input.FAIL): Phase.PAUSED,
    (Phase.GREETING, Input.FAIL): Phase.PAUSED,
    (Phase.UP, Input.FAIL): Phase.PAUSED,
}


@dataclass(frozen=True)
class OpenSocket:
    """Open a fresh socket and connect."""


@dataclass(frozen=True)
class CloseSocket:
    """Close the socket at once; its queued messages are dropped."""


@dataclass(frozen=True)
class Publish:
    """Tell others that the link came up or has a new problem.

    ``line`` goes to the log, as a warning if there is a problem.
    """

    view: LinkView
    line: str


@dataclass(frozen=True)
class Finish:
    """Give a reservation's request its outcome."""

    reservation: int
    outcome: Outcome


Action = OpenSocket | CloseSocket | Publish | Finish

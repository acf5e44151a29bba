"""States and inputs of the device's side of a connection; `device` has the diagram."""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    """The state of the connection."""

    CLOSED = auto()
    GREETING = auto()
    READY = auto()
    REFUSED = auto()


class Input(Enum):
    """The inputs of the state machine."""

    CONNECTED = auto()
    WELCOME = auto()
    HELLO_FIRST = auto()
    VERSION = auto()
    DISCONNECTED = auto()


TRANSITIONS: dict[tuple[State, Input], State] = {
    (State.CLOSED, Input.CONNECTED): State.GREETING,
    (State.GREETING, Input.CONNECTED): State.GREETING,
    (State.GREETING, Input.WELCOME): State.READY,
    (State.GREETING, Input.VERSION): State.REFUSED,
    (State.GREETING, Input.HELLO_FIRST): State.GREETING,
    (State.READY, Input.HELLO_FIRST): State.GREETING,
    (State.READY, Input.CONNECTED): State.GREETING,
    (State.REFUSED, Input.CONNECTED): State.GREETING,
    **{(state, Input.DISCONNECTED): State.CLOSED for state in State},
}

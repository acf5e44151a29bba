"""Where the device's side of a connection stands, and what can happen to it. `device` draws it."""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    """Where the connection stands."""

    CLOSED = auto()
    GREETING = auto()
    READY = auto()
    REFUSED = auto()


class Input(Enum):
    """What can happen to a connection."""

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

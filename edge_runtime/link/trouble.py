"""What can be wrong with the link: an enum, with a line for the user and a remedy for each.

Programs compare the member. Nothing reads the text to learn what happened.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum

from split_model.protocol.messages import shown


@dataclass(frozen=True)
class Pause:
    """How long to wait before the next connection: nothing for the first ``free``, then doubling to ``most_s``."""

    free: int
    most_s: float


#: The server did not let us in, or went silent: whoever mends that should not have to wait long.
_REFUSED = Pause(free=0, most_s=5.0)
#: A connection that breaks is tried again at once. One that breaks all the time still costs a greeting, and every
#: open request is sent again; a link that is back after an outage is to be used within two seconds.
_BROKEN = Pause(free=3, most_s=2.0)
#: The server let us in and then threw us out. It can repeat that for ever, and each time costs bytes and log lines.
_THROWN_OUT = Pause(free=0, most_s=60.0)
#: The same, but a server that restarts behind a proxy, or forgets a quiet device, does this once in a while.
_FORGOTTEN = Pause(free=3, most_s=60.0)


class Trouble(Enum):
    """Why there is no link to the server; `NONE` while there is one.

    ``problem`` and ``remedy`` are templates, see `describe`. ``pause``: how the next connection is delayed.
    """

    NONE = ("", "", _REFUSED)
    #: The link has not had the time for any other.
    NOT_YET = ("not connected yet", "", _REFUSED)
    AWAY = (
        "no connection to {address}",
        "check that a cloud-server runs there and that nothing blocks the port; frames are answered here meanwhile",
        _REFUSED,
    )
    LOST = ("lost the connection to {address}", "", _BROKEN)
    SILENT = ("nothing heard from {address} for {detail} s", "check that a cloud-server listens there", _REFUSED)
    KEY_REFUSED = (
        "{address} refuses this device's key",
        "allow it there with cloud-server devices allow -c FILE NAME '{public_key}'",
        _THROWN_OUT,
    )
    HANDSHAKE_BROKEN = (
        "{address} breaks off the handshake",
        "check server.public_keys in the config, and that a cloud-server listens there",
        _REFUSED,
    )
    OTHER_VERSION = (
        "{address} refuses this program's protocol version: {detail}",
        "upgrade the older side",
        _REFUSED,
    )
    REFUSED = ("{address} refuses this connection: {detail}", "see the cloud-server's log", _THROWN_OUT)
    GREETED_AGAIN = (
        "{address} asks for a greeting again and again",
        "see the cloud-server's log; check that only one server is behind this address",
        _FORGOTTEN,
    )
    PROTOCOL_BROKEN = (
        "{address} breaks the protocol: {detail}",
        "check that a cloud-server of the same version listens there",
        _THROWN_OUT,
    )

    def __init__(self, problem: str, remedy: str, pause: Pause) -> None:
        self.problem = problem
        self.remedy = remedy
        self.pause = pause

    @property
    def exit_code(self) -> int:
        """What a command ends with that needs the link."""
        return os.EX_NOPERM if self is Trouble.KEY_REFUSED else os.EX_UNAVAILABLE

    def describe(self, *, address: str, public_key: str, detail: str = "") -> tuple[str, str]:
        """Problem and remedy for the user.

        Args:
            address: The server's.
            public_key: This device's.
            detail: What else is known; it may come from the server.

        """
        names = {"address": address, "public_key": public_key, "detail": shown(detail)}
        return self.problem.format(**names), self.remedy.format(**names)

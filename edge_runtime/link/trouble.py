"""The troubles of the link: an enum, each with a problem and a remedy as text for the user.

Programs compare the members. No program parses the text.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum

from split_model.protocol.messages import shown


@dataclass(frozen=True)
class Pause:
    """The pause before the next connection: none for the first ``free``, then doubling up to ``most_s``."""

    free: int
    most_s: float


#: The server did not accept us, or went silent: a person who repairs that should not have to wait long.
_REFUSED = Pause(free=0, most_s=5.0)
#: A connection that breaks is tried again at once, so that a link that is back after an outage is used within two
#: seconds. The pause limits the cost of one that breaks all the time: each time a greeting and all open requests
#: are sent again.
_BROKEN = Pause(free=3, most_s=2.0)
#: The server accepted us and then closed. It can repeat that for ever, and each time costs bytes and log lines.
_THROWN_OUT = Pause(free=0, most_s=60.0)
#: The same, for a cause that is normal now and then: a restart behind a proxy, or a timeout of a quiet device.
_FORGOTTEN = Pause(free=3, most_s=60.0)


class Trouble(Enum):
    """Why there is no link to the server; `NONE` while there is one.

    ``problem`` and ``remedy`` are templates, see `describe`. ``pause``: how the next connection is delayed.
    """

    NONE = ("", "", _REFUSED)
    #: The link is so new that no other trouble is known yet.
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
        """Exit code of a command that needs the link."""
        return os.EX_NOPERM if self is Trouble.KEY_REFUSED else os.EX_UNAVAILABLE

    def describe(self, *, address: str, public_key: str, detail: str = "") -> tuple[str, str]:
        """Fill in problem and remedy for the user.

        Args:
            address: The server's.
            public_key: This device's.
            detail: What else is known; it may come from the server.

        """
        names = {"address": address, "public_key": public_key, "detail": shown(detail)}
        return self.problem.format(**names), self.remedy.format(**names)

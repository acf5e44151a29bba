"""Tries a server as the program would: waits for its welcome, and tells how that went."""

from __future__ import annotations

import time

from edge_runtime.link.link_thread import Link
from edge_runtime.link.link_view import LinkView
from edge_runtime.link.trouble import Trouble

#: A handshake, and a second one with the server's other key.
_WELCOME_S = 8.0


def greet(link: Link, *, server_keys: int) -> LinkView:
    """The view of a started link after a hello, up or with its trouble.

    Args:
        link: A link whose thread runs.
        server_keys: How many keys of the server are trusted; with two, a trouble may be that of the wrong one.

    """
    until_s = time.monotonic() + _WELCOME_S
    while time.monotonic() < until_s:
        view = link.view()
        if view.up and (view.estimate.rtt_s is not None or time.monotonic() > until_s - _WELCOME_S / 2):
            return view
        if view.trouble not in (Trouble.NONE, Trouble.NOT_YET) and server_keys == 1:
            return view
        time.sleep(0.02)
    return link.view()

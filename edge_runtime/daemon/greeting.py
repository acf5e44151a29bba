"""Tries a server as the program would: connects with a key, says hello, and tells how that went."""

from __future__ import annotations

import contextlib
import os
import time

from edge_runtime.config.config import Config
from edge_runtime.daemon.assembly import make_link
from edge_runtime.link.link_thread import NOT_YET, LinkView
from split_model.bundle import Bundle
from split_model.protocol.keys import KeyPair

#: A handshake, and a second one with the server's other key.
_WELCOME_S = 8.0


def greet(config: Config, bundle: Bundle, keys: KeyPair) -> LinkView:
    """The link after a hello, up or with its trouble; with two server keys, after both were tried."""
    with contextlib.ExitStack() as closing:
        offload = make_link(config, bundle, keys, os.urandom(16).hex(), closing)
        offload.start()
        closing.callback(offload.end)
        until_s = time.monotonic() + _WELCOME_S
        troubles: list[str] = []
        while time.monotonic() < until_s:
            view = offload.view()
            if view.up and (view.estimate.rtt_s is not None or time.monotonic() > until_s - _WELCOME_S / 2):
                return view
            if view.trouble not in ("", NOT_YET) and view.trouble not in troubles:
                troubles.append(view.trouble)
            if troubles and len(config.server_keys) == 1:
                return view
            time.sleep(0.02)
        return view

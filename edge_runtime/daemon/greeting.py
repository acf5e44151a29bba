"""Tries a server as the program would: connects with a key, says hello, and tells how that went."""

from __future__ import annotations

import contextlib
import os
import time

from edge_runtime.config.config import Config
from edge_runtime.daemon.assembly import make_link
from edge_runtime.link.trouble import Trouble
from edge_runtime.link.view import LinkView
from split_model.bundle import Bundle
from split_model.protocol.keys import KeyPair

#: A handshake, and a second one with the server's other key.
_WELCOME_S = 8.0


def greet(config: Config, bundle: Bundle, keys: KeyPair) -> LinkView:
    """The link after a hello, up or with its trouble; with two server keys, after both were tried."""
    with contextlib.ExitStack() as closing:
        link = make_link(config, bundle, keys, os.urandom(16).hex(), closing)
        link.start()
        closing.callback(link.end)
        until_s = time.monotonic() + _WELCOME_S
        while time.monotonic() < until_s:
            view = link.view()
            if view.up and (view.estimate.rtt_s is not None or time.monotonic() > until_s - _WELCOME_S / 2):
                return view
            tried = view.trouble not in (Trouble.NONE, Trouble.NOT_YET)
            if tried and len(config.server_keys) == 1:
                return view
            time.sleep(0.02)
        return view

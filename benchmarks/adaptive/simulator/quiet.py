"""Keeps the device program's log quiet while it runs in virtual time, where outages and refusals are no news."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_device() -> Iterator[None]:
    """Show errors only, until the block ends."""
    log = logging.getLogger("edge_runtime")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)

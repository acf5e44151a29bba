"""Errors that only the server program has."""

from __future__ import annotations

import os

from split_model.errors import SplitModelError


class ListenError(SplitModelError, OSError):
    """The address to listen on cannot be had (69): it may be free again at the next attempt."""

    exit_code = os.EX_UNAVAILABLE


class AccessControlError(SplitModelError, RuntimeError):
    """The self-test of the access control failed, so the server does not start (70)."""

    exit_code = os.EX_SOFTWARE


class EngineError(SplitModelError, RuntimeError):
    """The cluster that runs the tails cannot be had (69): it may be there at the next attempt."""

    exit_code = os.EX_UNAVAILABLE

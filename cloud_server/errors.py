"""Errors of the server program only."""

from __future__ import annotations

import os

from split_model.errors import SplitModelError


class ListenError(SplitModelError, OSError):
    """The listening address is unavailable (exit code 69): it may be free at the next attempt."""

    exit_code = os.EX_UNAVAILABLE


class AccessControlError(SplitModelError, RuntimeError):
    """The self-test of the access control failed, so the server does not start (exit code 70)."""

    exit_code = os.EX_SOFTWARE


class EngineError(SplitModelError, RuntimeError):
    """The cluster that runs the tails is unavailable (exit code 69): it may be up at the next attempt."""

    exit_code = os.EX_UNAVAILABLE

"""Every error that a user can see: problem, remedy, and exit code.

Library callers can catch our class or the built-in class that it derives from.
"""

from __future__ import annotations

import os


class SplitModelError(Exception):
    """An error that the user can fix; ``str(error)`` is one line, ``problem; remedy``.

    Args:
        problem: The fault and its place: the file, the key, the value.
        remedy: The way to fix it, with the valid choices. Empty if the problem already says it.

    """

    exit_code: int = os.EX_SOFTWARE

    def __init__(self, problem: str = "", *, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:  # subclasses of OSError would print an errno tuple
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem


class UsageError(SplitModelError, ValueError):
    """The command line names something that does not exist or does not fit (exit code 64)."""

    exit_code = os.EX_USAGE


class BadModelError(SplitModelError, ValueError):
    """A ``.tflite`` file is damaged or cannot be cut (exit code 65)."""

    exit_code = os.EX_DATAERR


class BadBundleError(SplitModelError, ValueError):
    """A bundle's manifest is wrong, or its files do not match their hashes (exit code 65)."""

    exit_code = os.EX_DATAERR


class BadInputError(SplitModelError, ValueError):
    """An image, array or run log is damaged or unsuitable (exit code 65)."""

    exit_code = os.EX_DATAERR


class MissingInputError(SplitModelError, FileNotFoundError):
    """A file or folder is missing (exit code 66)."""

    exit_code = os.EX_NOINPUT


class BackendError(SplitModelError, RuntimeError):
    """There is no TFLite backend, or it cannot run this model (exit code 69)."""

    exit_code = os.EX_UNAVAILABLE


class ProtocolError(SplitModelError, ValueError):
    """The peer broke the protocol (exit code 76)."""

    exit_code = os.EX_PROTOCOL


class ServerUnreachableError(SplitModelError, ConnectionError):
    """The server does not answer (exit code 69)."""

    exit_code = os.EX_UNAVAILABLE


class NotAllowedError(SplitModelError, PermissionError):
    """The peer does not accept a key, or a file has open permissions (exit code 77)."""

    exit_code = os.EX_NOPERM


class ConfigError(SplitModelError, ValueError):
    """A config file has an unknown key or an impossible value (exit code 78)."""

    exit_code = os.EX_CONFIG


class OutputError(SplitModelError, OSError):
    """A file cannot be written: disk full, no permission, or it exists (exit code 73)."""

    exit_code = os.EX_CANTCREAT

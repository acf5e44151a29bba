"""Every error a user can meet: the problem, the remedy, and the exit code its program ends with.

Library callers can catch either our class or the built-in it stands for.
"""

from __future__ import annotations

import os


class SplitModelError(Exception):
    """Something the user can mend; ``str(error)`` is one line, ``problem; remedy``.

    Args:
        problem: What is wrong, and where: the file, the key, the value.
        remedy: What to do about it, with the valid choices. Empty where the problem already says it.

    """

    exit_code: int = os.EX_SOFTWARE

    def __init__(self, problem: str = "", *, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:  # those that are an OSError too would print an errno tuple
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem


class UsageError(SplitModelError, ValueError):
    """The command line asks for something that does not exist or does not fit (64)."""

    exit_code = os.EX_USAGE


class BadModelError(SplitModelError, ValueError):
    """A ``.tflite`` file that is damaged or that cannot be cut (65)."""

    exit_code = os.EX_DATAERR


class BadBundleError(SplitModelError, ValueError):
    """A bundle whose manifest is wrong or whose files do not match their hashes (65)."""

    exit_code = os.EX_DATAERR


class BadInputError(SplitModelError, ValueError):
    """A damaged or unsuitable image, array or run log (65)."""

    exit_code = os.EX_DATAERR


class MissingInputError(SplitModelError, FileNotFoundError):
    """A file or folder that is not there (66)."""

    exit_code = os.EX_NOINPUT


class BackendError(SplitModelError, RuntimeError):
    """No TFLite backend, or one that cannot run this model (69)."""

    exit_code = os.EX_UNAVAILABLE


class ProtocolError(SplitModelError, ValueError):
    """Bytes from the peer that break the protocol (76)."""

    exit_code = os.EX_PROTOCOL


class ServerUnreachableError(SplitModelError, ConnectionError):
    """The server does not answer (69)."""

    exit_code = os.EX_UNAVAILABLE


class NotAllowedError(SplitModelError, PermissionError):
    """A key that the peer does not accept, or a file with open permissions (77)."""

    exit_code = os.EX_NOPERM


class ConfigError(SplitModelError, ValueError):
    """A config file with an unknown key or an impossible value (78)."""

    exit_code = os.EX_CONFIG


class OutputError(SplitModelError, OSError):
    """A file that cannot be written: disk full, no permission, already there (73)."""

    exit_code = os.EX_CANTCREAT

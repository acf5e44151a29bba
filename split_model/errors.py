"""Every error a user can meet, each with the exit code its program ends with.

The text of an error is one line: what is wrong, where, and what to do. Library
callers can catch either our class or the built-in it stands for.
"""

from __future__ import annotations

import os


class SplitModelError(Exception):
    """Something the user can mend; ``str(error)`` is the one line to print."""

    exit_code: int = os.EX_SOFTWARE


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
    """An image, array or run log that is not what it should be (65)."""

    exit_code = os.EX_DATAERR


class MissingInputError(SplitModelError, FileNotFoundError):
    """A file or folder that is not there (66)."""

    exit_code = os.EX_NOINPUT

    def __str__(self) -> str:  # FileNotFoundError would print an errno tuple
        return str(self.args[0]) if self.args else ""


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

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ConfigError(SplitModelError, ValueError):
    """A config file with an unknown key or an impossible value (78)."""

    exit_code = os.EX_CONFIG


class OutputError(SplitModelError, OSError):
    """A file that cannot be written: disk full, no permission, already there (73)."""

    exit_code = os.EX_CANTCREAT

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""

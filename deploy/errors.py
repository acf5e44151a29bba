"""What can go wrong, as one line for the user and an exit code."""

from __future__ import annotations

import os


class DeployError(Exception):
    """Ends the deployment to one host; ``str(error)`` is one line, ``problem; remedy``.

    The same parts as `split_model.errors.SplitModelError` has; deployment runs before that package is installed.
    """

    exit_code = os.EX_SOFTWARE

    def __init__(self, problem: str, *, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem


class UsageError(DeployError):
    """The command line asks for something that does not fit (64)."""

    exit_code = os.EX_USAGE


class BadBundleError(DeployError):
    """A bundle that is damaged, or that the board cannot run (65)."""

    exit_code = os.EX_DATAERR


class MissingError(DeployError):
    """A file or folder that is not there (66)."""

    exit_code = os.EX_NOINPUT


class UnreachableError(DeployError):
    """No SSH connection, or one that broke (69)."""

    exit_code = os.EX_UNAVAILABLE


class UnfitError(DeployError):
    """A board that cannot run the program (69)."""

    exit_code = os.EX_UNAVAILABLE


class NotAllowedError(DeployError):
    """Root is needed on the board and missing, or the server has revoked the board's key (77)."""

    exit_code = os.EX_NOPERM


class RolledBackError(DeployError):
    """The new release did not answer; the old one serves again (70)."""

    exit_code = os.EX_SOFTWARE

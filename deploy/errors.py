"""The errors of a deployment, each with one line for the user and an exit code."""

from __future__ import annotations

import os


class DeployError(Exception):
    """Ends the deployment to one host; ``str(error)`` is one line, ``problem; remedy``.

    It has the parts of `split_model.errors.SplitModelError`; deployment runs before that package is installed.
    """

    exit_code = os.EX_SOFTWARE

    def __init__(self, problem: str, *, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem


class UsageError(DeployError):
    """The command line has options that do not fit (exit code 64)."""

    exit_code = os.EX_USAGE


class BadBundleError(DeployError):
    """The bundle is damaged, or the board cannot run it (exit code 65)."""

    exit_code = os.EX_DATAERR


class MissingError(DeployError):
    """A file or folder is missing (exit code 66)."""

    exit_code = os.EX_NOINPUT


class UnreachableError(DeployError):
    """There is no SSH connection, or it broke (exit code 69)."""

    exit_code = os.EX_UNAVAILABLE


class UnfitError(DeployError):
    """The board cannot run the program (exit code 69)."""

    exit_code = os.EX_UNAVAILABLE


class NotAllowedError(DeployError):
    """Root is missing on the board, or the server has revoked the board's key (exit code 77)."""

    exit_code = os.EX_NOPERM


class RolledBackError(DeployError):
    """The new release did not answer; the old one is in use again (exit code 70)."""

    exit_code = os.EX_SOFTWARE

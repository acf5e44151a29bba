"""Fetches the answers that a board has kept, over the user's own SSH."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from split_model.errors import BadInputError, ServerUnreachableError, UsageError
from split_model.service.time_spans import span_s

#: What ssh ends with where it has no connection.
_NO_CONNECTION = 255
#: As root, or by sudo without a password.
_AS_ROOT = 'if [ "$(id -u)" -eq 0 ]; then exec {0}; else exec sudo -n {0}; fi'


def fetch_records(destination: str, to: Path, *, last: str | None, ssh: Sequence[str] = ("ssh",)) -> None:
    """Write a board's records into a file.

    Args:
        destination: The board, as for ssh: ``pi@porch``.
        to: The file.
        last: Only those of the last time, as ``1h``; None for all that it has kept.
        ssh: The command and its options.

    Raises:
        UsageError: The destination or the time is none.
        ServerUnreachableError: There is no SSH connection.
        BadInputError: The board does not give its records, for the reason that it tells.

    """
    if not destination or destination.startswith("-"):
        raise UsageError(f"--from {destination}: no SSH destination", remedy="give [user@]HOST")
    command = "edge-runtime records"
    if last is not None:
        span_s("--last", last)  # no text of another form reaches the shell there
        command += f" --last {last}"
    with to.open("wb") as file:
        done = subprocess.run(  # noqa: S603  what the user gave is checked above
            [*ssh, "--", destination, _AS_ROOT.format(command)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
    said = done.stderr.strip().splitlines()
    told = said[-1] if said else f"it ended with {done.returncode}"
    if done.returncode == _NO_CONNECTION:
        raise ServerUnreachableError(
            f"no SSH connection to {destination}: {told}", remedy=f"see that 'ssh {destination}' works"
        )
    if done.returncode:
        remedy = f"try 'ssh {destination} sudo {command}'; a board of an older version has to be deployed again"
        raise BadInputError(f"{destination}: {told}", remedy=remedy)
    if not to.stat().st_size:
        when = "" if last is None else f" of the last {last}"
        raise BadInputError(
            f"{destination} has kept no answers{when}", remedy="run 'edge-runtime status' on the board"
        )

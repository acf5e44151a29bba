"""``edge-runtime status``: reads and prints the running program's status file, once or repeatedly."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec

from edge_runtime.service import status as states
from split_model.service import status_file
from split_model.service.status_file import SERVING, boot_s, condition_now, start_command, stopped_text
from split_model.service.terminal_text import columns

_HOME_AND_CLEAR = "\x1b[H\x1b[J"


def show(path: Path, *, config: Path, as_json: bool, watch_s: float | None) -> int:
    """Print the status, and return the exit code: 0 while frames are answered, else 69.

    Args:
        path: The status file. If there is none, the program is stopped.
        config: The config file, for the text.
        as_json: Print a line of JSON; for a stopped program without a file, only its condition.
        watch_s: Print it again at this interval, until Ctrl-C.

    Raises:
        NotAllowedError: This user may not read the file.

    """
    clear = _HOME_AND_CLEAR if watch_s is not None and sys.stdout.isatty() and not as_json else ""
    while True:
        text, good = _once(path, config=config, as_json=as_json)
        print(clear + (_that_fits(text) if clear else text), flush=True)
        if watch_s is None:
            return os.EX_OK if good else os.EX_UNAVAILABLE
        time.sleep(watch_s)


def _that_fits(text: str) -> str:
    """The first lines, so that a lower terminal does not scroll them away."""
    lines, room = text.splitlines(), os.get_terminal_size(sys.stdout.fileno()).lines - 1
    if room < 2 or len(lines) <= room:
        return text
    return "\n".join([*lines[: room - 1], f"... {len(lines) - room + 1} more lines: make the terminal higher"])


def _once(path: Path, *, config: Path, as_json: bool) -> tuple[str, bool]:
    width = columns(sys.stdout)
    found = status_file.read(path, states.Status, key=states.KEY)
    if found is None:
        return '{"condition":"stopped"}' if as_json else stopped_text(config, "edge-runtime", width=width), False
    condition = condition_now(found)
    if as_json:
        text = msgspec.json.encode({"condition": condition, **msgspec.to_builtins(found)}).decode()
    else:
        start = start_command(config, "edge-runtime")
        text = states.for_terminal(
            found, condition, age_s=boot_s() - found.written_boot_s, start=start, width=width
        )
    return text, condition in SERVING

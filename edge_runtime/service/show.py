"""``edge-runtime status``: reads and prints the running program's status file, once or repeatedly."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec

from edge_runtime.service import status as states
from split_model.service import status_file
from split_model.service.status_file import SERVING, boot_s, condition_now, stopped_text

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
        print(clear + text, flush=True)
        if watch_s is None:
            return os.EX_OK if good else os.EX_UNAVAILABLE
        time.sleep(watch_s)


def _once(path: Path, *, config: Path, as_json: bool) -> tuple[str, bool]:
    found = status_file.read(path, states.Status, key=states.KEY)
    if found is None:
        return '{"condition":"stopped"}' if as_json else stopped_text(config, "edge-runtime"), False
    condition = condition_now(found)
    if as_json:
        text = msgspec.json.encode({"condition": condition, **msgspec.to_builtins(found)}).decode()
    else:
        text = states.for_terminal(found, condition, age_s=boot_s() - found.written_boot_s)
    return text, condition in SERVING

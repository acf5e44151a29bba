"""``edge-runtime status``: reads the status file of the running program, once or again and again."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec

from edge_runtime.service import status as states
from split_model.errors import MissingInputError
from split_model.service import status_file
from split_model.service.status_file import SERVING, boot_s, condition_now

_HOME_AND_CLEAR = "\x1b[H\x1b[J"


def show(path: Path, *, as_json: bool, watch_s: float | None) -> int:
    """Print the status, and return the exit code: 0 while frames are answered, else 69.

    ``watch_s``: print it again at this interval, until Ctrl-C. Raises `MissingInputError` where there is no file.
    """
    clear = _HOME_AND_CLEAR if watch_s is not None and sys.stdout.isatty() and not as_json else ""
    while True:
        text, good = _once(path, as_json=as_json, waiting=watch_s is not None)
        print(clear + text, flush=True)
        if watch_s is None:
            return os.EX_OK if good else os.EX_UNAVAILABLE
        time.sleep(watch_s)


def _once(path: Path, *, as_json: bool, waiting: bool) -> tuple[str, bool]:
    try:
        found = status_file.read(path, states.Status, key=states.KEY)
    except MissingInputError as error:
        if not waiting:
            raise
        return ('{"condition":"stopped"}' if as_json else str(error)), False
    condition = condition_now(found)
    if as_json:
        text = msgspec.json.encode({"condition": condition, **msgspec.to_builtins(found)}).decode()
    else:
        text = states.for_terminal(found, condition, age_s=boot_s() - found.written_boot_s)
    return text, condition in SERVING

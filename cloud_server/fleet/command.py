"""``cloud-server devices``: prints the fleet's table, once or repeatedly, or as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import msgspec

from cloud_server.fleet.overview import FleetFile, read
from cloud_server.fleet.terminal import as_text
from split_model.service.status_file import SERVING, condition_now, stopped_text
from split_model.service.terminal_text import columns

_WATCH_S = 2.0
_CLEAR = "\x1b[H\x1b[2J"


def show(path: Path, config: Path, *, as_json: bool, watch: bool) -> int:
    """Print the table of the running server.

    Args:
        path: The table's file.
        config: The server's config, for messages.
        as_json: Whether to print JSON; with ``watch``, one line each time.
        watch: Whether to print it again every two seconds, until Ctrl-C.

    Returns:
        The exit code: 69 if no server runs.

    """
    while True:
        found = read(path)
        serving = found is not None and condition_now(found) in SERVING
        if found is None or not serving:
            told = stopped_text(config, "cloud-server", width=columns(sys.stdout))
            print('{"condition":"stopped"}' if as_json else told, flush=True)
            if not watch:
                return os.EX_UNAVAILABLE
        elif as_json:
            print(_as_json(found, indent=None if watch else 1), flush=True)
        else:
            print((_CLEAR if watch else "") + as_text(found.rows), flush=True)
        if not watch:
            return os.EX_OK
        time.sleep(_WATCH_S)


def _as_json(found: FleetFile, *, indent: int | None) -> str:
    devices = [msgspec.to_builtins(row) for row in found.rows]
    return json.dumps({"written_unix_s": found.written_unix_s, "devices": devices}, indent=indent)

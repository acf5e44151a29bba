"""``edge-runtime records``: reads the stored answers from the sink's file or from the journal."""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from edge_runtime.config.config import Config
from edge_runtime.sinks.jsonl import JsonlTable
from split_model.errors import ConfigError, MissingInputError

log = logging.getLogger(__name__)

#: The time of a record. Found without decoding the line: a file may have millions of lines.
_UNIX_S = re.compile(rb'"unix_s":([0-9]+(?:\.[0-9]+)?)')
_RECORD = b'{"kind":'


def kept_records(config: Config, *, unit: str, since_unix_s: float | None) -> Iterator[bytes]:
    """Yield the lines of the first sink of kind ``jsonl``, oldest first, each with its newline.

    Args:
        config: The device's config.
        unit: The service whose journal has them if that sink has no file.
        since_unix_s: Only records made since then; None for all.

    Raises:
        ConfigError: There is no such sink.
        MissingInputError: Its file, or the journal, cannot be read.

    """
    table = next((sink for sink in config.sinks if isinstance(sink, JsonlTable)), None)
    if table is None:
        raise ConfigError("no sink of kind 'jsonl' stores answers", remedy="add one to the config")
    lines = _of_journal(unit, since_unix_s) if table.path is None else _of_file(table.path)
    return _since(lines, since_unix_s)


def _since(lines: Iterable[bytes], since_unix_s: float | None) -> Iterator[bytes]:
    undated = 0
    for line in lines:
        if not line.startswith(_RECORD) or not line.endswith(b"}\n"):
            continue  # a line of the log, or an incomplete one
        if since_unix_s is not None:
            found = _UNIX_S.search(line)
            undated += found is None
            if found is None or float(found[1]) < since_unix_s:
                continue
        yield line
    if undated:
        log.warning("%d records of an earlier version have no time, and are left out", undated)


def _of_file(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except PermissionError:
        raise MissingInputError(f"{path}: this user may not read it", remedy="run this command with sudo") from None
    except OSError as error:
        raise MissingInputError(
            f"{path}: {error.strerror}", remedy="has the program answered anything yet?"
        ) from None


def _of_journal(unit: str, since_unix_s: float | None) -> Iterator[bytes]:
    command = ["journalctl", f"--unit={unit}", "--output=cat", "--no-pager", "--quiet"]
    if since_unix_s is not None:
        command.append(f"--since=@{int(since_unix_s)}")
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603  nothing of it is foreign
            assert process.stdout is not None
            yield from process.stdout
    except FileNotFoundError:
        raise MissingInputError(
            "this machine has no journal, and the sink has no file", remedy="set the sink's path"
        ) from None

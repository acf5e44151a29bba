"""Writes a report, whole or not at all: of a run's log, or of a benchmark's result."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from split_model.errors import OutputError
from split_model.report.log import read_log


def write_report(run: Path, output: Path) -> None:
    """Draw the run log ``run`` (JSON lines, see ``log``) as the page ``output``, whole or not at all.

    Photographs named by relative paths are looked for beside the log. Raises MissingInputError,
    BadInputError naming the line, and OutputError when the page cannot be written. A result of
    `edge-runtime bench --json` is drawn as well.
    """
    from split_model.report import bench
    from split_model.report.run import render

    page = bench.render(bench.read_bench(run)) if bench.is_bench(run) else render(read_log(run), run.parent)
    write_whole(output, page)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or as it was before. Raises OutputError."""
    scratch: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        scratch = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.chmod(0o644)
        scratch.replace(path)
    except OSError as error:
        if scratch is not None:
            scratch.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: cannot be written: {error.strerror}", remedy="choose another place with -o"
        ) from None

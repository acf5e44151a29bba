"""Writes a report, whole or not at all: of a run's log, or of a benchmark's result."""

from __future__ import annotations

from pathlib import Path

from split_model.errors import OutputError
from split_model.report.log import read_log
from split_model.service.atomic_file import write_atomically


def write_report(run: Path, output: Path, pictures: Path | None = None) -> None:
    """Draw the run log ``run`` (JSON lines, see ``log``) as the page ``output``, whole or not at all.

    Photographs named by relative paths are looked for beside the log. Raises MissingInputError,
    BadInputError naming the line, and OutputError when the page cannot be written. A result of
    `edge-runtime bench --json` is drawn as well, and so are the answers of a device, whose pictures lie in the
    folder ``pictures``.
    """
    from split_model.report import bench
    from split_model.report.device_log import is_device_log, read_device_log
    from split_model.report.run import render

    if bench.is_bench(run):
        page = bench.render(bench.read_bench(run))
    else:
        page = render(read_device_log(run, pictures) if is_device_log(run) else read_log(run), run.parent)
    write_whole(output, page)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or as it was before. Raises OutputError."""
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written: {error.strerror}", remedy="choose another place with -o"
        ) from None

"""Writes a run's report: one HTML page that needs nothing but itself, plots and photographs inside."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

from split_model.errors import OutputError
from split_model.report import sections
from split_model.report.log import RunLog, read_log
from split_model.report.style import CSS, DARK, LIGHT, recoloured

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The browser enforces what we promise: the page loads nothing from anywhere."""


def write_report(run: Path, output: Path) -> None:
    """Draw the run log ``run`` (JSON lines, see ``log``) as the page ``output``, whole or not at all.

    Photographs named by relative paths are looked for beside the log. Raises MissingInputError,
    BadInputError naming the line, and OutputError when the page cannot be written. A result of
    `edge-runtime bench --json` is drawn as well.
    """
    from split_model.report import bench

    if bench.is_bench(run):
        write_whole(output, bench.render(bench.read_bench(run)))
        return
    write_whole(output, render(read_log(run), run.parent))


def render(log: RunLog, folder: Path) -> str:
    """Return the page of a run whose photographs lie in ``folder``."""
    from split_model.report.gallery import gallery

    hero = sections.hero(log)
    policies = log.of_role("adaptive") or [policy for policy in log.policies if log.frames[policy.name]]
    photographs, unread = gallery(log.frames[policies[0].name], folder)
    body = [
        sections.header(log),
        hero,
        sections.emulated(log),
        sections.privacy(log),
        *_plots(log),
        sections.policies_table(log),
        sections.decisions(log),
        f"<section><h2>Photographs and answers: {escape(policies[0].name)}</h2>{photographs}</section>",
        sections.footer(log, unread),
    ]
    return document(log.run.title, body)


def document(title: str, body: Sequence[str]) -> str:
    """Return a whole page around its parts; the title is escaped here."""
    title = escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{title}</title><style>{CSS}</style></head>'
        f"<body><main>\n{''.join(part + chr(10) for part in body if part)}</main></body></html>\n"
    )


def _plots(log: RunLog) -> Sequence[str]:
    from split_model.report import plots

    drawn = (
        (plots.link_and_split, 5.2, "The link and the split point", sections.LINK_CAPTION),
        (plots.latency_over_time, 3.9, "Latency of every frame", sections.LATENCY_CAPTION),
        (plots.distribution_and_bytes, 3.7, "How latency is distributed, and what is sent", sections.SHARE_CAPTION),
    )
    return [
        f"<section><h2>{heading}</h2><figure>"
        f"{picture(heading, plots.svg(draw, log, LIGHT, height_in))}"
        f"<figcaption>{caption}</figcaption></figure></section>"
        for draw, height_in, heading, caption in drawn
    ]


def picture(alt: str, light: str) -> str:
    """Return a plot, drawn in the light theme, for both."""
    light_uri, dark_uri = (
        "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()
        for text in (light, recoloured(light, LIGHT, DARK))
    )
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark_uri}">'
        f'<img class="plot" src="{light_uri}" alt="{escape(alt, quote=True)}"></picture>'
    )


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
        raise OutputError(f"{path}: cannot be written: {error.strerror}; choose another place with -o") from None

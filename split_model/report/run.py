"""Draws a run's log as a page: the policies side by side, the link, the split point, every photograph."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from split_model.report import sections
from split_model.report.log import RunLog
from split_model.report.page import document, picture
from split_model.report.style import LIGHT


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


def _plots(log: RunLog) -> Sequence[str]:
    from split_model.report import plots

    drawn = (
        (plots.link_and_split, 5.2, "The link and the split point", sections.LINK_CAPTION),
        (plots.latency_over_time, 3.9, "Latency of every frame", sections.LATENCY_CAPTION),
        (plots.distribution_and_bytes, 3.7, "Distribution of latency, and bytes sent", sections.SHARE_CAPTION),
    )
    return [
        f"<section><h2>{heading}</h2><figure>"
        f"{picture(heading, plots.svg(draw, log, LIGHT, height_in))}"
        f"<figcaption>{caption}</figcaption></figure></section>"
        for draw, height_in, heading, caption in drawn
    ]

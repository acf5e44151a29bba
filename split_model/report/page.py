"""Draws reports from the templates beside it: HTML pages that need nothing but themselves, plots inside."""

from __future__ import annotations

import base64
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup

from split_model.report import figures
from split_model.report.style import CSS, DARK, LIGHT, recoloured
from split_model.service.page_templates import environment

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The browser enforces what we promise: the page loads nothing from anywhere."""

_TEMPLATES = Path(__file__).parent / "templates"


class Plot(msgspec.Struct, frozen=True):
    """A plot in a page: data URIs in the light and the dark theme."""

    heading: str
    caption: str
    light: str
    dark: str


def render_page(template: str, title: str, **values: Any) -> str:
    """Return a whole page.

    Args:
        template: A file of the folder ``templates`` that extends ``page.html``.
        title: The page's title.
        values: The template's variables. Jinja2 escapes all text in them.

    """
    return _environment().get_template(template).render(title=title, policy=POLICY, css=Markup(CSS), **values)  # noqa: S704  # ours, without input


def plot(heading: str, caption: str, svg: str) -> Plot:
    """Return a plot for both themes.

    Args:
        heading: Above it, and its text for people who do not see it.
        caption: Beneath it.
        svg: The drawing, in the light theme.

    """
    light, dark = (
        "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()
        for text in (svg, recoloured(svg, LIGHT, DARK))
    )
    return Plot(heading=heading, caption=caption, light=light, dark=dark)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    filters = (
        figures.milliseconds,
        figures.kilobytes,
        figures.percent,
        figures.epsilon,
        figures.epsilon_range,
        figures.count,
        figures.in_unit,
    )
    return environment(_TEMPLATES, {of.__name__: of for of in filters})

"""Renders the pages from the templates in this folder. Jinja2 escapes everything but our own markup."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from split_model.service.page_templates import environment

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, title: str, *, at: str = "", live: str = "", **values: Any) -> str:
    """Render a whole page.

    Args:
        template: A file of the folder ``templates``.
        title: Its heading.
        at: The path of the page in the navigation; empty: no navigation, as before the login.
        live: The query of its live updates, or empty.
        values: The template's variables.

    """
    return _environment().get_template(template).render(title=title, at=at, live=live, **values)


def _plain(value: object) -> str:
    """Replace unprintable characters by ``?``; the text is escaped afterwards, as all text."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return environment(_TEMPLATES, {"plain": _plain})

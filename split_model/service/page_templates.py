"""The Jinja2 environment of all pages: every text is escaped, and a name that is not given is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import jinja2


def environment(folder: Path, filters: Mapping[str, Callable[..., object]]) -> jinja2.Environment:
    """Return the environment of the templates in a folder, with filters of their own."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(filters)
    return made

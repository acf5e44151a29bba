"""The frame of every report: one HTML page that needs nothing but itself, plots inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from split_model.report.style import CSS, DARK, LIGHT, recoloured

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The browser enforces what we promise: the page loads nothing from anywhere."""


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

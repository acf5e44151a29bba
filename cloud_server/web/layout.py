"""The frame of every page, and tables. Whatever is not our own markup goes through `text`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_PAGES = (("/", "Devices"), ("/server", "Server"), ("/statistics", "Statistics"), ("/bundles", "Bundles"))


def text(value: object) -> str:
    """Escape for HTML, attributes included; what does not print is shown as ``?``."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in str(value))
    return escape(shown, quote=True)


def document(title: str, body: str, *, at: str = "", live: str = "") -> str:
    """A whole page.

    Args:
        title: Its heading.
        body: Markup.
        at: The path of the page in the navigation; without it there is none (the login).
        live: The query of its live updates, or empty.

    """
    links = "".join(
        f'<li><a href="{path}"{" aria-current=page" if path == at else ""}>{name}</a></li>' for path, name in _PAGES
    )
    head = (
        '<a class="skip" href="#main">Skip to the content</a>'
        f'<header><nav aria-label="Pages"><ul>{links}</ul></nav>'
        '<form method="post" action="/logout"><button>Log out</button></form></header>'
        if at
        else ""
    )
    script = f'<script src="/static/live.js" data-events="/events?{text(live)}" defer></script>' if live else ""
    state = '<p id="live" role="status" class="quiet">Updating …</p>' if live else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{text(title)} – split runtime</title>"
        f'<link rel="stylesheet" href="/static/style.css">{script}</head>'
        f'<body>{head}<main id="main" tabindex="-1"><h1>{text(title)}</h1>{state}{body}</main></body></html>'
    )


def table(caption: str, headings: Sequence[tuple[str, str]], rows: Iterable[str], *, name: str = "") -> str:
    """A table that scrolls sideways by itself where it does not fit.

    Args:
        caption: What it is.
        headings: Heading and explanation of each column.
        rows: Markup of its rows.
        name: Its id.

    """
    cells = "".join(
        f'<th scope="col" title="{text(title)}">{text(heading)}</th>'
        if title
        else f'<th scope="col">{text(heading)}</th>'
        for heading, title in headings
    )
    identity = f' id="{name}"' if name else ""
    return (
        f'<div class="scroll" role="region" aria-label="{text(caption)}" tabindex="0"><table{identity}>'
        f"<caption>{text(caption)}</caption><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def row(heading: object, *values: object, live: Sequence[str] = (), labels: Sequence[str] = ()) -> str:
    """A row whose first cell heads it; ``live``: keys of the values that are updated."""
    made = [f'<th scope="row">{text(heading)}</th>']
    for number, value in enumerate(values):
        key = f' data-live="{text(live[number])}"' if number < len(live) else ""
        label = f' data-label="{text(labels[number])}"' if number < len(labels) else ""
        made.append(f"<td{key}{label}>{text(value)}</td>")
    return f"<tr>{''.join(made)}</tr>"

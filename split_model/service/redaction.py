"""Removes user names, passwords, paths and queries from URLs, for logs and status."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+")


def urls(text: str) -> list[str]:
    """All URLs in a text."""
    return _URL.findall(text)


def short_url(url: str) -> str:
    """Scheme, host and port of a URL: cameras have passwords in paths and queries, too."""
    scheme, _, rest = url.partition("://")
    place = re.split(r"[/?#]", rest, maxsplit=1)[0] if "@" not in rest else rest.rpartition("@")[2]
    place = re.split(r"[/?#]", place, maxsplit=1)[0]
    return f"{scheme}://{place}" + ("/..." if len(rest) > len(place) else "")


def redacted(text: str) -> str:
    """Shorten every URL with a user, a query or a path in a text to scheme, host and port."""
    return _URL.sub(lambda found: short_url(found[0]) if _tells(found[0]) else found[0], text)


def _tells(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return True
    return bool("@" in url or parts.query or len(parts.path) > 1)

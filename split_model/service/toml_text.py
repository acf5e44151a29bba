"""Writes TOML, which Python reads but does not write: keys, values and comments, each on one line.

Not with tomli-w: it writes no comments, puts the items of a list on lines of their own, and leaves the control
characters from U+0080 to U+009F as they are, which steer a terminal.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def key(name: str) -> str:
    """Format a key, in quotes if TOML needs them. `ValueError` for lone surrogates."""
    return name if _BARE_KEY.fullmatch(name) else _string(name)


def value(of: Any) -> str:
    """Format a value: text, number, boolean, date or time, a list, or a dict as an inline table.

    Raises `ValueError` for values that TOML lacks: None, lone surrogates (a path that is not UTF-8), a time zone of
    a time without a date or with seconds.
    """
    if isinstance(of, str):
        return _string(of)
    if isinstance(of, (bool, int, float)):
        return str(of).lower()  # true, 1e-05, inf, nan
    if isinstance(of, (dt.datetime, dt.date, dt.time)):
        return _time(of)
    if isinstance(of, (list, tuple)):
        return f"[{', '.join(map(value, of))}]"
    if isinstance(of, dict):
        pairs = ", ".join(f"{key(name)} = {value(entry)}" for name, entry in of.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    raise ValueError(f"{type(of).__name__} is not a value of TOML")


def comment(text: str) -> str:
    """Format a comment; unprintable characters become escapes."""
    return "# " + "".join(sign if sign.isprintable() else _escaped(sign) for sign in text)


def _string(text: str) -> str:
    text.encode()  # UnicodeEncodeError is a ValueError
    return (
        '"' + "".join(_SHORT.get(sign) or (sign if sign.isprintable() else _escaped(sign)) for sign in text) + '"'
    )


def _escaped(sign: str) -> str:
    return f"\\u{ord(sign):04X}" if ord(sign) < 1 << 16 else f"\\U{ord(sign):08X}"


def _time(of: dt.datetime | dt.date | dt.time) -> str:
    offset = None if not isinstance(of, dt.datetime) else of.utcoffset()
    if offset is not None and offset % dt.timedelta(minutes=1):
        raise ValueError(f"{of}: a time zone in TOML has whole minutes")
    if isinstance(of, dt.time) and of.tzinfo is not None:
        raise ValueError(f"{of}: a time of day in TOML has no time zone")
    return of.isoformat()

"""Text for people in a terminal: lines that fold at its width, counts with their nouns, large numbers in words.

In a pipe nothing is folded: what one line says there stays one line, for `grep` and for logs.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TextIO

#: Of a terminal that does not tell its width, and of labels in front of their values.
WIDTH, LABEL = 80, 10
#: No narrower, whatever a terminal says: words would stand alone.
_LEAST_WIDTH = 40
_DIGITS = 4
#: More digits than a sum of floats can be wrong in.
_EXACT_DIGITS = 12
_WORDS = ((10**9, "billion"), (10**6, "million"))
_LARGEST_IN_WORDS = 10**12


def columns(stream: TextIO) -> int | None:
    """The width to fold at: of the terminal behind a stream, or None for a pipe or a file, which folds nothing."""
    try:
        if not stream.isatty():
            return None
        told = os.environ.get("COLUMNS", "")
        found = int(told) if told.isdecimal() else os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # a stream that is closed, or without a descriptor
        return None
    return max(_LEAST_WIDTH, found or WIDTH)


def fold(text: str, width: int | None, *, indent: int = 0) -> str:
    """Fold one line between words.

    Args:
        text: The line. Words are never cut: a path or a key that is longer than the line stays whole.
        width: Columns, or None to fold nothing.
        indent: Blanks in front of every line but the first.

    """
    if width is None or len(text) <= width:
        return text
    return "\n".join(
        textwrap.wrap(
            text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False,
            drop_whitespace=True,
        )
    )  # fmt: skip


def labelled(rows: Iterable[tuple[str, str]], width: int | None, *, label: int = LABEL) -> str:
    """Rows of a label and its value, folded under the value; a label that is that of the row before is left out."""
    lines, before = [], None
    for name, value in rows:
        shown = "" if name == before else name
        lines.append(fold(f"{shown:<{label}}{value}", width, indent=label))
        before = name
    return "\n".join(lines)


def counted(count: int, noun: str, plural: str = "") -> str:
    """``1 bundle``, ``2 bundles``, ``1,234 frames``; ``plural`` for a noun that takes no ``s``."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def size(count: float) -> str:
    """A number of bytes: ``512 bytes``, ``3.1 kB``, ``44 MB``, ``69.1 GB``."""
    if count < 1e3:
        return counted(int(count), "byte")
    if count < 1e6:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def milliseconds(seconds: float) -> str:
    """``0.29 ms``, ``34 ms``."""
    return f"{seconds * 1e3:.2g} ms" if seconds < 0.1 else f"{seconds * 1e3:,.0f} ms"


def in_words(value: float, *, up: bool = True) -> str:
    """A number as people say it: ``16``, ``30.93``, ``12,544``, ``613 million``, ``6.13e+14``.

    Args:
        value: Not negative.
        up: Round up, as an ε that was spent is; false rounds down, as what is left of a budget is.

    """
    if not math.isfinite(value) or value == 0.0:
        return f"{value:g}"
    exact = Decimal(repr(value)).normalize()
    exact = Decimal(f"{exact:.{_EXACT_DIGITS}g}")
    if exact >= _LARGEST_IN_WORDS:
        return f"{_rounded(exact, 3, up=up):.2e}"
    for unit, word in _WORDS:
        if exact >= unit:
            return f"{_plain(_rounded(exact / unit, 3, up=up))} {word}"
    return _plain(_rounded(exact, max(_DIGITS, exact.adjusted() + 1), up=up))


def _rounded(value: Decimal, digits: int, *, up: bool) -> Decimal:
    last = Decimal(1).scaleb(value.adjusted() + 1 - digits)
    return value.quantize(last, ROUND_CEILING if up else ROUND_FLOOR)


def _plain(value: Decimal) -> str:
    text = f"{value:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

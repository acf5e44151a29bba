"""Folds lines at the width of the user's terminal; in a pipe they stay as they are."""

from __future__ import annotations

import shutil
import textwrap
from typing import TextIO


def fold(text: str, stream: TextIO, *, indent: int) -> str:
    """Fold one line between words; the lines behind the first begin with ``indent`` blanks."""
    if not stream.isatty():
        return text
    width = max(40, shutil.get_terminal_size().columns)
    lines = textwrap.wrap(
        text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines)

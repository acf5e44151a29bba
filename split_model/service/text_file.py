"""Reads text files that people edit; its lines are those of their editor.

UTF-8; a byte order mark at the start is dropped. A file that begins with the mark of UTF-16 is refused by that
name. A line ends at a newline, with or without a carriage return before it, and nowhere else: Python's
``splitlines`` also ends lines at U+2028, a form feed and seven others, which editors show inside a line. So a
comment could hold an entry that nobody sees. Such characters are named where they stand.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

from split_model.errors import BadInputError, SplitModelError

_MARK = "\ufeff".encode()
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NAMES = {
    "\0": "null",
    "\r": "carriage return",
    "\v": "vertical tab",
    "\f": "form feed",
    "\x1c": "file separator",
    "\x1d": "group separator",
    "\x1e": "record separator",
    "\x85": "next line",
    "\u2028": "line separator",
    "\u2029": "paragraph separator",
}
_REMEDY = "save the file as UTF-8 text, without this character"


@dataclass(frozen=True)
class Line:
    """One line of a file.

    Args:
        number: Counted from 1.
        text: Without its end. What is not UTF-8 is replaced by U+FFFD.
        stray: What is no text in it, by name, or empty.

    """

    number: int
    text: str
    stray: str = ""


def lines(raw: bytes) -> Iterator[Line]:
    """The lines of a file's bytes; behind the last newline there is a line only if something stands there."""
    if raw.startswith(_UTF_16):
        yield Line(1, "", 'the file is UTF-16 text ("Unicode" in Windows), not UTF-8')
        return
    pieces = raw.removeprefix(_MARK).split(b"\n")
    last = pieces.pop()
    for number, piece in enumerate(pieces, start=1):
        yield _line(number, piece.removesuffix(b"\r"))
    if last:
        yield _line(len(pieces) + 1, last)


def text(raw: bytes, where: str, *, error: type[SplitModelError] = BadInputError) -> str:
    """A file's bytes as text, its lines ended by a newline each, but for the last one if that has none.

    Args:
        raw: The file's bytes.
        where: The file, which opens the error.
        error: The class of the error, one of `split_model.errors`.

    Raises:
        BadInputError: Or ``error``: a line is not UTF-8, or holds a character that is no text.

    """
    found = []
    for line in lines(raw):
        if line.stray:
            raise error(f"{where}:{line.number}: {line.stray}", remedy=_REMEDY)
        found.append(line.text)
    return "\n".join(found) + ("\n" if raw.endswith(b"\n") else "")


def _line(number: int, raw: bytes) -> Line:
    try:
        found = raw.decode()
    except UnicodeDecodeError as error:
        return Line(number, raw.decode(errors="replace"), f"byte 0x{raw[error.start]:02x} is not UTF-8")
    stray = next((sign for sign in found if _is_no_text(sign)), None)
    if stray is None:
        return Line(number, found)
    name = _NAMES.get(stray, "control character")
    return Line(number, found, f"character U+{ord(stray):04X} ({name}) in a line of text")


def _is_no_text(sign: str) -> bool:
    """Whether it is a control character but the tab, or ends a line or a paragraph in Unicode."""
    return (sign < " " and sign != "\t") or "\x7f" <= sign <= "\x9f" or sign in "\u2028\u2029"

"""Reads text files that people edit, with the same lines as in an editor.

Files are UTF-8; a byte order mark at the start is dropped, and the mark of UTF-16 is refused by name. Lines end
only at a newline, with or without a carriage return before it. Python's ``splitlines`` also ends lines at U+2028, a
form feed and seven others, which editors show inside a line: so a comment could contain a hidden entry. Such
characters are reported with their line.
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
        text: Without its end. Bytes that are not UTF-8 are replaced by U+FFFD.
        stray: The description of a character that is not text, or empty.

    """

    number: int
    text: str
    stray: str = ""


def lines(raw: bytes) -> Iterator[Line]:
    """The lines of a file's bytes; an empty rest after the last newline is not a line."""
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
    """Decode a file's bytes as text, with normalised line ends.

    Args:
        raw: The file's bytes.
        where: The file, which begins the error.
        error: The class of the error, one of `split_model.errors`.

    Raises:
        BadInputError: Or ``error``: a line is not UTF-8, or has a character that is not text.

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
    """Whether a character is a control character (not the tab), or a line or paragraph separator of Unicode."""
    return (sign < " " and sign != "\t") or "\x7f" <= sign <= "\x9f" or sign in "\u2028\u2029"

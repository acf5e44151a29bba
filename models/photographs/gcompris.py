"""Copy the photographs out of Debian's package gcompris-qt-data, where it is installed; none of them is committed.

usage: python -m models.photographs.gcompris -o DIR

Some 220 photographs of animals, buildings, tools and fish, each free by its author's licence (the copyright file of
the package says which). They are to evaluate with: nothing in this repository is calibrated on them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from models import wheels
from split_model.errors import MissingInputError, SplitModelError

FOLDER = Path("/usr/share/gcompris-qt/rcc")
#: Collections that hold photographs; those of drawings are left out.
COLLECTIONS = (
    "categorization",
    "explore_farm_animals",
    "explore_monuments",
    "explore_world_animals",
    "explore_world_music",
)
_STARTS = re.compile(rb"\xff\xd8\xff|RIFF....WEBP|\x89PNG\r\n\x1a\n", re.DOTALL)
_LEAST_SIDE = 150  # smaller ones are buttons


def photographs(collection: Path) -> Iterator[bytes]:
    """The picture files of one collection, each once: a Qt resource file has a length before every file's bytes."""
    raw = collection.read_bytes()
    seen = set()
    for found in _STARTS.finditer(raw, 4):
        (length,) = struct.unpack_from(">I", raw, found.start() - 4)
        content = raw[found.start() : found.start() + length]
        digest = hashlib.sha256(content).digest()
        if len(content) == length and digest not in seen and _is_photograph(content):
            seen.add(digest)
            yield content


def _is_photograph(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            return min(picture.size) >= _LEAST_SIDE and picture.mode in ("RGB", "L")
    except OSError:  # the same bytes by chance, amid another file
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the photographs; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="models.photographs.gcompris", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write into")
    output = parser.parse_args(arguments).output
    try:
        print(f"{output}  {write(output)} photographs")
    except SplitModelError as error:
        print(f"gcompris: {error}", file=sys.stderr)
        return error.exit_code
    return os.EX_OK


def write(output: Path) -> int:
    """Write all photographs into a folder; returns their number. Raises `MissingInputError` without the package."""
    count = 0
    for name in COLLECTIONS:
        collection = FOLDER / f"{name}.rcc"
        if not collection.is_file():
            raise MissingInputError(f"{collection}: no such file", remedy="apt-get install gcompris-qt-data")
        for number, content in enumerate(photographs(collection)):
            wheels.write_atomically(output / f"{name}_{number:03d}", content)
            count += 1
    return count


if __name__ == "__main__":
    sys.exit(main())

"""Recognises picture formats by a file's first bytes, and by the endings of file names.

The content decides how a file is decoded, not its name. The name decides whether a file of a folder counts as a
picture; for a name without an ending the content decides that too. AVIF needs Pillow 11.3 or later, and HEIC the
package ``pillow-heif``, which the extra ``heif`` installs.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections import Counter
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path

from split_model.features.samples import spelled

#: Endings of file names by format, as Pillow calls it.
ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jfif", ".jpe", ".mpo"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
}
#: How to install support for formats that not every installation can read.
_REMEDIES = {"AVIF": "install Pillow 11.3 or later", "HEIF": "install this package with [heif]"}
#: Modules of Pillow that register a format, except those registered automatically.
_PLUGINS = {"WEBP": "PIL.WebPImagePlugin", "TIFF": "PIL.TiffImagePlugin", "AVIF": "PIL.AvifImagePlugin"}
_MAGIC = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("BMP", b"BM"),
    ("GIF", b"GIF87a"),
    ("GIF", b"GIF89a"),
    ("TIFF", b"II*\0"),
    ("TIFF", b"MM\0*"),
    ("TIFF", b"II+\0"),
    ("TIFF", b"MM\0+"),
)
_PPM = b"123456"
_BOX = b"ftyp"
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
#: Bytes at the start of a file that show its format: an ISO box of brands may be this long.
HEAD_BYTES = 64
#: Maximum names and endings in one log line.
_TOLD = 4


def format_of(head: bytes) -> str | None:
    """The format of a file by its first `HEAD_BYTES`; None if it is not a readable one."""
    for name, magic in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:1] == b"P" and head[1:2] and head[1:2] in _PPM and head[2:3].isspace():
        return "PPM"
    if head[4:8] == _BOX:
        length = min(int.from_bytes(head[:4], "big"), len(head))
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, length - 3, 4))}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        if brands & _HEIF_BRANDS:
            return "HEIF"
    return None


@cache
def missing(name: str) -> str:
    """The package to install to read a format, empty if it can be read; imports nothing."""
    module = {"HEIF": "pillow_heif", "AVIF": "PIL._avif"}.get(name)
    if module is None:
        return ""
    parent = module.partition(".")[0]
    there = importlib.util.find_spec(parent) is not None and importlib.util.find_spec(module) is not None
    return "" if there else _REMEDIES[name]


@cache
def register(name: str) -> None:
    """Register a single format that Pillow does not load automatically."""
    if name == "HEIF":
        importlib.import_module("pillow_heif").register_heif_opener(thumbnails=False)
    elif name in _PLUGINS:
        importlib.import_module(_PLUGINS[name])


@lru_cache(maxsize=1)
def readable_endings() -> frozenset[str]:
    """The endings of file names that count as pictures."""
    return frozenset(ending for name, endings in ENDINGS.items() if not missing(name) for ending in endings)


def is_picture(path: Path) -> bool:
    """Whether a file counts as a picture: by its ending, or by its content if its name has none."""
    ending = path.suffix.lower()
    return ending in readable_endings() if ending else _has_readable_content(path)


def _has_readable_content(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            name = format_of(file.read(HEAD_BYTES))
    except OSError:
        return False
    return name is not None and not missing(name)


def describe_passed_over(names: Iterable[str]) -> str:
    """A log line: the number of skipped files by ending, and the packages that would read them."""
    files = sorted(names)
    endings = Counter(Path(name).suffix.lower() for name in files)
    told = [f"{count} {spelled(ending) or 'without an ending'}" for ending, count in endings.most_common(_TOLD)]
    others = len(files) - sum(count for _, count in endings.most_common(_TOLD))
    told += [f"{others} others"] if others else []
    remedies = {
        missing(name): None for name, known in ENDINGS.items() if missing(name) and set(known) & endings.keys()
    }
    line = f"{len(files)} passed over ({', '.join(told)}; the first: {spelled(files[0])})"
    return (
        f"{line}; to read them, {' and '.join(remedies)}" if remedies else f"{line}: not pictures that can be read"
    )

"""Decodes picture files upright, in a viewer's colours, within a bound on memory.

A file of a few bytes can claim a picture of gigabytes. The memory for decoding follows from the header: sides,
bytes per pixel of the mode, the decoder's own copies, and those for turning and converting. It is bounded before
decoding; the data beside the pixels are bounded before they are read (`picture_notes`). JPEG files that are much
larger than the model needs are decoded at a half, a quarter or an eighth of their size, which the format offers.
The colours are those of `picture_colours`: in sRGB, on white. The first frame of a moving picture is used. Pillow
is imported when the first picture is opened.
"""

from __future__ import annotations

import importlib
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from split_model.arrays import Picture
from split_model.bundle.manifest import ImagePreprocess
from split_model.errors import BackendError, BadInputError, MissingInputError
from split_model.features.avif_size import UnreadableSizeError, coded_pixels
from split_model.features.picture_colours import as_seen, check_colour_code, check_primaries, depth_of, extra_bytes
from split_model.features.picture_formats import ENDINGS, HEAD_BYTES, format_of, missing, register
from split_model.features.picture_notes import check_notes

#: Limits of a picture, in pixels in all and per side: a board has little memory. Checked before decoding.
MAX_PIXELS = 64 << 20
MAX_SIDE = 1 << 15
#: Maximum memory for decoding one picture in bytes, as needed by PNG photographs of 50 megapixels.
MAX_DECODE_BYTES = 192 << 20
#: Bytes per pixel of the copy of a scaled array.
SCALED_BYTES = 4
#: JPEG files of more pixels are decoded at reduced size ...
_DRAFT_PIXELS = 16 << 20
#: ... with a shorter side of at least this many times the declared one: scaling needs detail to average.
_DRAFT_MARGIN = 2
_MODES = {"rgb": "RGB", "bgr": "RGB", "grey": "L"}
#: Bytes per pixel in Pillow; all other modes take 4.
_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
#: Bytes per pixel that a decoder needs besides the image until the file is closed: its planes and canvases, and the
#: #: bytes handed over. Measured, plus 3 for planes of 10 bits.
_DECODER_BYTES = {"WEBP": (12, 8), "AVIF": (12, 8), "HEIF": (12, 8), "GIF": (1, 1)}
#: Formats that are read as a whole before their size is known.
_MAX_FILE_BYTES = 32 << 20
_COLOUR_BOX = b"colrnclx"
_COLOUR_CHUNK = b"cICP"
#: Entries of a file that declare its colours.
_COLOUR_BYTES = 4096
_UPRIGHT = 1
#: The key in an image's info for the upright size of the picture that it was decoded from.
_WHOLE_SIZE = "whole_size"
_ORIENTATION = 0x0112  # Exif's tag
_ON_ITS_SIDE = (5, 6, 7, 8)  # its values that swap height and width
# What Pillow's decoders were seen to raise on damaged files.
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, OverflowError)
_DAMAGED = (*_DECODER_ERRORS, struct.error, zlib.error, RuntimeError)


def pillow(name: str) -> Any:
    """Import a module of Pillow; `BackendError` if it is not installed."""
    try:
        return importlib.import_module(f"PIL.{name}")
    except ImportError:
        raise BackendError(
            "pictures need Pillow, which is not installed", remedy="install this package with [images]"
        ) from None


def open_picture(path: Path, preprocess: ImagePreprocess) -> Picture:
    """Decode a picture file upright into uint8 [height, width, 3], or [height, width, 1] for grey.

    Raises:
        MissingInputError: There is no file, or no permission to read it.
        BadInputError: It is not a picture, is damaged, or needs too much memory to decode.
        BackendError: Pillow is not installed.

    """
    pixels: Picture = np.asarray(open_image(path, preprocess), dtype=np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def open_image(path: Path, preprocess: ImagePreprocess) -> Any:
    """Decode a picture file upright as a Pillow image of mode RGB, or L for grey; raises as `open_picture`."""
    image_module = pillow("Image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata, which changes no pixel
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            head = _head_of(path)
            with image_module.open(path, formats=(_format(path, head),)) as image:
                return _decoded(path, image, head, preprocess)
    except BadInputError:
        raise
    except FileNotFoundError:
        raise MissingInputError(f"{path}: no such picture", remedy="name a picture that exists") from None
    except PermissionError:
        raise MissingInputError(
            f"{path}: no permission to read it", remedy="make it readable for this user"
        ) from None
    except (image_module.DecompressionBombError, image_module.DecompressionBombWarning):
        raise BadInputError(
            f"{path}: claims over {MAX_PIXELS >> 20} megapixels", remedy="scale the picture down, or remove it"
        ) from None
    except MemoryError:
        raise BadInputError(f"{path}: not enough memory to decode it", remedy="scale the picture down") from None
    except _DAMAGED as error:
        reason = _excerpt(error) if "nsupported" in str(error) or "unknown" in str(error) else ""
        raise BadInputError(
            f"{path}: a damaged picture, or a kind of its format that cannot be read{reason}",
            remedy="remove or replace it",
        ) from None


def upright_size(image: Any) -> tuple[int, int]:
    """Height and width of the whole upright picture that `open_image` decoded, perhaps at reduced size."""
    height, width = image.info.get(_WHOLE_SIZE, (image.height, image.width))
    return height, width


def _excerpt(error: Exception) -> str:
    return f" ({' '.join(str(error).split())[:80]})"


def _head_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_COLOUR_BYTES)


def _format(path: Path, head: bytes) -> str:
    """The format by the content. Raises `BadInputError` if it cannot be read, or is too large to be read whole."""
    name = format_of(head[:HEAD_BYTES])
    if name is None:
        raise BadInputError(f"{path}: not a picture (reads {', '.join(ENDINGS)})", remedy="remove or replace it")
    if remedy := missing(name):
        raise BadInputError(f"{path}: a picture in {name}, which is not installed", remedy=remedy)
    if name in _DECODER_BYTES and path.stat().st_size > _MAX_FILE_BYTES:
        raise BadInputError(
            f"{path}: {name} file of over {_MAX_FILE_BYTES >> 20} MiB", remedy="scale the picture down"
        )
    check_notes(path, name)
    register(name)
    return name


def _decoded(path: Path, image: Any, head: bytes, preprocess: ImagePreprocess) -> Any:
    """Decode the image upright and in the wanted mode, after a check of its memory."""
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise BadInputError(
            f"{path}: {width} x {height} is over {MAX_PIXELS >> 20} megapixels, or over {MAX_SIDE} on a side",
            remedy="scale the picture down",
        )
    try:
        depth = depth_of(image, head)
        _check_colours(image, head)
    except BadInputError as error:
        raise BadInputError(f"{path}: {error.problem}", remedy=error.remedy) from None
    coefficients = 0
    if image.format in ("JPEG", "MPO"):
        # A progressive JPEG keeps every coefficient, two bytes each, at any decoded size.
        if image.info.get("progressive"):
            coefficients = 2 * width * height * len(image.getbands())
        if width * height > _DRAFT_PIXELS:
            wanted = preprocess.resize if preprocess.fit == "crop" else max(preprocess.crop)
            short = _DRAFT_MARGIN * wanted
            image.draft(None, (short, short))
    pixels = _pixels(path, image)
    mode = _MODES[preprocess.colour]
    turned = image.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT
    cost = coefficients + _bytes_of(image, pixels, mode=mode, turned=turned)
    if cost > MAX_DECODE_BYTES:
        raise BadInputError(
            f"{path}: {width} x {height} ({image.format}, {image.mode}, {pixels / 1e6:.1f} megapixels) "
            f"takes {cost >> 20} MiB to decode, over {MAX_DECODE_BYTES >> 20}",
            remedy="scale the picture down",
        )
    image.load()
    drafted = image.size != (width, height)
    across = image.getexif().get(_ORIENTATION, _UPRIGHT) in _ON_ITS_SIDE
    if turned:
        pillow("ImageOps").exif_transpose(image, in_place=True)
    try:
        seen = as_seen(image, depth, mode)
    except BadInputError as error:
        raise BadInputError(f"{path}: {error.problem}", remedy=error.remedy) from None
    if drafted:
        seen.info[_WHOLE_SIZE] = (width, height) if across else (height, width)
    return seen


def _check_colours(image: Any, head: bytes) -> None:
    """Check colours that a file declares by numbers instead of a profile."""
    if image.info.get("icc_profile"):
        return
    if image.format in ("AVIF", "HEIF"):
        at = head.find(_COLOUR_BOX)
        if at >= 0:
            codes = head[at + len(_COLOUR_BOX) :][:4].ljust(4, b"\0")
            check_colour_code(int.from_bytes(codes[:2], "big"), int.from_bytes(codes[2:], "big"))
    elif image.format == "PNG":
        at = head.find(_COLOUR_CHUNK)
        if at >= 0:
            codes = head[at + len(_COLOUR_CHUNK) :][:2].ljust(2, b"\0")
            check_colour_code(codes[0], codes[1])
        elif "srgb" not in image.info and "chromaticity" in image.info:
            check_primaries(image.info["chromaticity"])


def _pixels(path: Path, image: Any) -> int:
    """Number of decoded pixels; for AVIF, that of its streams, as the stated size may be false."""
    stated = int(image.width * image.height)
    if image.format != "AVIF":
        return stated
    try:
        return max(stated, coded_pixels(path) // (1 + ("A" in image.getbands())))
    except UnreadableSizeError as error:
        raise BadInputError(
            f"{path}: an AVIF file of unknown size before decoding ({error})",
            remedy="save it in another format",
        ) from None


def _bytes_of(image: Any, pixels: int, *, mode: str, turned: bool) -> int:
    """Memory of the decoded image and of everything held at the same time."""
    stored = _PIXEL_BYTES.get(image.mode, 4)
    decoding, kept = _DECODER_BYTES.get(image.format, (0, 0))
    after = max(stored if turned else 0, extra_bytes(image, mode))
    return int(pixels * (stored + max(decoding, kept + after)))

"""Decodes picture files upright, within a bound on memory that holds whatever a file claims.

A file of a few bytes can claim a picture of gigabytes. What decoding costs follows from the header: sides, the
mode's bytes a pixel, and copies for turning and converting. It is bounded before anything is decoded. JPEG files
that are much larger than the model needs are decoded at a half, a quarter or an eighth of their size, which the
format offers. Pillow is imported when the first picture is opened.
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

#: A board has little memory: larger pictures are refused before they are decoded, as a whole and a side.
MAX_PIXELS = 64 << 20
MAX_SIDE = 1 << 15
#: Memory that decoding one picture may take, in bytes; PNG photographs of 50 megapixels need as much.
MAX_DECODE_BYTES = 192 << 20
#: JPEG files of more pixels are decoded at a part of their size ...
_DRAFT_PIXELS = 16 << 20
#: ... whose shorter side is this many times the declared one at least: scaling needs detail to average.
_DRAFT_MARGIN = 2
#: File name endings that are taken for pictures when a folder is read.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
_MODES = {"rgb": "RGB", "bgr": "RGB", "grey": "L"}
#: Bytes that Pillow keeps for a pixel; all modes that are not named take 4.
_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1}
_UPRIGHT = 1
_ORIENTATION = 0x0112  # Exif's tag
# What Pillow's decoders were seen to raise on damaged files.
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, OverflowError)
_DAMAGED = (*_DECODER_ERRORS, struct.error, zlib.error, RuntimeError)


def pillow(name: str) -> Any:
    """Import a module of Pillow; `BackendError` where it is not installed."""
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
        BadInputError: It is no picture, is damaged, or costs too much to decode.
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
            with image_module.open(path, formats=_FORMATS) as image:
                return _decoded(path, image, preprocess)
    except BadInputError:
        raise
    except FileNotFoundError:
        raise MissingInputError(f"{path}: no such picture", remedy="name one that exists") from None
    except PermissionError:
        raise MissingInputError(
            f"{path}: no permission to read it", remedy="make it readable for this user"
        ) from None
    except (image_module.DecompressionBombError, image_module.DecompressionBombWarning):
        raise BadInputError(
            f"{path}: claims over {MAX_PIXELS >> 20} megapixels", remedy="scale it down or remove it"
        ) from None
    except MemoryError:
        raise BadInputError(f"{path}: not enough memory to decode it", remedy="scale it down") from None
    except _DAMAGED as error:
        reason = "not a picture" if type(error).__name__ == "UnidentifiedImageError" else "a damaged picture"
        raise BadInputError(
            f"{path}: {reason} (reads {', '.join(_FORMATS)})", remedy="remove or replace it"
        ) from None


def _decoded(path: Path, image: Any, preprocess: ImagePreprocess) -> Any:
    """The image upright and in the wanted mode, after its cost has been found to be within the bound."""
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise BadInputError(
            f"{path}: {width} x {height} is over {MAX_PIXELS >> 20} megapixels, or over {MAX_SIDE} on a side",
            remedy="scale it down",
        )
    if image.mode.startswith(("I", "F")):
        raise BadInputError(f"{path}: more than 8 bits a channel ({image.mode})", remedy="save it with 8")
    coefficients = 0
    if image.format == "JPEG":
        # Every coefficient of a progressive one is kept, two bytes each, at whatever size it is decoded.
        if image.info.get("progressive"):
            coefficients = 2 * width * height * len(image.getbands())
        if width * height > _DRAFT_PIXELS:
            short = _DRAFT_MARGIN * preprocess.resize
            image.draft(None, (short, short))
    mode = _MODES[preprocess.colour]
    turned = image.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT
    cost = coefficients + _bytes_of(image, mode=mode, turned=turned)
    if cost > MAX_DECODE_BYTES:
        raise BadInputError(
            f"{path}: {width} x {height} ({image.format}, {image.mode}) takes {cost >> 20} MiB to decode, "
            f"over {MAX_DECODE_BYTES >> 20}",
            remedy="scale it down",
        )
    image.load()
    if turned:
        image = pillow("ImageOps").exif_transpose(image)
    return image if image.mode == mode else image.convert(mode)


def _bytes_of(image: Any, *, mode: str, turned: bool) -> int:
    """Memory of the decoded image and of its largest copy at the same time."""
    pixels = image.width * image.height
    stored = _PIXEL_BYTES.get(image.mode, 4)
    frame = 12 if image.format == "WEBP" else 0  # libwebp's two canvases, and the bytes handed over
    converted = _PIXEL_BYTES.get(mode, 4) if image.mode != mode else 0
    return int(pixels * (stored + max(frame, converted, stored if turned else 0)))

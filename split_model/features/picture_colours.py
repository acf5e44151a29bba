"""Converts a decoded picture to the colours of a viewer: 8 bits per channel, in sRGB, on white.

In this order: samples of 16 bits are scaled by the file's depth, an embedded colour profile is converted to sRGB, a
PNG's gamma likewise, and transparent pixels become white. A picture that needs none of this is not changed. Samples
without a defined brightness, such as floating-point ones, are refused with the reason.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from split_model.arrays import Array
from split_model.errors import BadInputError

_DEPTH = 16
#: A 16-bit picture with all values below this has 14 bits or fewer: a viewer shows it dark or black.
_DARK_BELOW = 1 << 14
#: Number of rows of 16-bit values converted at a time.
_ROWS = 256
_PNG_DEPTH, _PNG_COLOUR = 24, 25  # bytes of a PNG that say so
_PNG_KEYED = (0, 2)  # colour types with one transparent colour
_TIFF_PHOTOMETRIC, _TIFF_BITS, _TIFF_SAMPLE_FORMAT = 262, 258, 339
_MIN_IS_WHITE, _UNSIGNED = 0, 1
_WHITE = (255, 255, 255)
_ALPHA_MODES = frozenset(("LA", "La", "PA", "RGBA", "RGBa"))
#: The colour space of a profile for pictures of a mode.
_SPACES = {"L": "GRAY", "RGB": "RGB ", "RGBA": "RGB ", "CMYK": "CMYK"}
_MAX_PROFILE_BYTES = 4 << 20
#: A profile that changes no colour by more than this counts as sRGB.
_SAME = 2
_DISPLAY_GAMMA = 2.2
_GAMMA_TOLERANCE = 0.05
#: Code points of H.273: those of sRGB or unspecified, and those of high dynamic range.
_PLAIN_PRIMARIES = frozenset((1, 2))
#: x and y of sRGB's red, green and blue; some writers round them.
_SRGB_PRIMARIES = (0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_PRIMARIES_TOLERANCE = 0.025
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}


@dataclass(frozen=True, slots=True)
class Depth:
    """The conversion of a file's samples to 8 bits. ``bits``: of a sample. ``inverted``: 0 is white."""

    bits: int = 8
    inverted: bool = False


def depth_of(image: Any, head: bytes) -> Depth:
    """The depth of an opened picture. Raises `BadInputError` if its samples have no defined white."""
    if image.mode == "F":
        raise BadInputError(
            "floating-point samples, which have no defined white", remedy="save it with 8 or 16 bits"
        )
    if image.format == "PNG":
        bits, colour = head[_PNG_DEPTH], head[_PNG_COLOUR]
        if bits == _DEPTH and colour in _PNG_KEYED and "transparency" in image.info:
            raise BadInputError("16 bits with one transparent colour", remedy="save it with an alpha channel")
        return Depth(bits)
    if image.format == "TIFF":
        bits = max(_numbers(image, _TIFF_BITS))
        if bits <= 8:
            return Depth()
        formats = set(_numbers(image, _TIFF_SAMPLE_FORMAT) or [_UNSIGNED])
        if bits > _DEPTH or formats != {_UNSIGNED}:
            raise BadInputError(
                f"samples of {bits} bits, signed or over 16, which have no defined white",
                remedy="save it with 8 or 16 bits, unsigned",
            )
        inverted = _numbers(image, _TIFF_PHOTOMETRIC) == [_MIN_IS_WHITE] and image.mode.startswith("I")
        return Depth(bits, inverted)
    return Depth(_DEPTH if image.mode.startswith("I") else 8)


def check_colour_code(primaries: int, transfer: int) -> None:
    """Refuse colours declared by code points without a profile: high dynamic range, wide gamuts."""
    if transfer in _HDR_TRANSFERS:
        raise BadInputError(
            f"a picture of high dynamic range ({_HDR_TRANSFERS[transfer]})", remedy="save it as sRGB with 8 bits"
        )
    if primaries not in _PLAIN_PRIMARIES:
        raise BadInputError(
            f"a wide gamut without a profile (colour primaries {primaries})", remedy="save it as sRGB"
        )


def check_primaries(chromaticity: Sequence[float]) -> None:
    """Refuse a PNG with primaries (cHRM: x and y of white, red, green and blue) other than those of sRGB."""
    pairs = zip(chromaticity[2:], _SRGB_PRIMARIES, strict=False)
    if any(abs(value - known) > _PRIMARIES_TOLERANCE for value, known in pairs):
        raise BadInputError("a wide gamut without a profile (primaries of a cHRM chunk)", remedy="save it as sRGB")


def extra_bytes(image: Any, mode: str) -> int:
    """Maximum bytes per pixel of the conversion, besides the decoded image."""
    if image.mode.startswith("I"):
        grey = 2 + 1  # of uint8: the array and the image made from it
        return grey + (4 if mode == "RGB" else 0)
    see_through, profiled = _has_alpha(image), "icc_profile" in image.info
    extra = 0
    if (
        image.mode == "LAB"
        or (profiled and image.mode not in ("RGB", "RGBA"))
        or (see_through and image.mode not in ("RGBA", "LA"))
    ):
        extra = 4
    extra += 4 if see_through else 0
    extra = max(extra, 4 if "gamma" in image.info else 0)
    if image.mode != mode:
        extra = max(extra, 1 if mode == "L" else 4)
    return extra


def as_seen(image: Any, depth: Depth, mode: str) -> Any:
    """Convert a picture to a viewer's colours, in ``mode`` RGB or L.

    Args:
        image: A decoded image; it is changed or closed if that saves memory.
        depth: The result of `depth_of`.
        mode: Mode of the result.

    Raises:
        BadInputError: Its 16-bit values fill at most a fourth of their range, or its mode has no sRGB colours.

    """
    info = dict(image.info)
    if image.mode.startswith("I"):
        image = _grey_of_16(image, depth)
    elif depth.bits == _DEPTH:
        colours = image.getextrema()[: 1 if image.mode == "LA" else 3]  # Pillow gives the upper 8 bits
        _check_bright(max(1, max(high for _, high in colours) << 8))
    see_through = _has_alpha(image)
    image = _in_srgb(image, info, see_through=see_through)
    image = _without_gamma(image, info)
    if see_through:
        image = _on_white(image)
    return image if image.mode == mode else image.convert(mode)


def _numbers(image: Any, tag: int) -> list[int]:
    found = image.tag_v2.get(tag, ())
    return [int(value) for value in (found if isinstance(found, tuple) else (found,))] or [1]


def _has_alpha(image: Any) -> bool:
    return image.mode in _ALPHA_MODES or "transparency" in image.info


def _check_bright(highest: int) -> None:
    if 0 < highest < _DARK_BELOW:
        raise BadInputError(
            f"16 bits a sample, all below {_DARK_BELOW}: 14 bits or fewer, which a viewer shows dark",
            remedy="scale its values to 16 bits, or save it with 8",
        )


def _grey_of_16(image: Any, depth: Depth) -> Any:
    """Convert a picture of mode I;16 or I to mode L, a block of rows at a time."""
    if depth.bits == _DEPTH:
        _check_bright(int(image.getextrema()[1]))
    width, height = image.size
    grey = np.empty((height, width), np.uint8)
    for top in range(0, height, _ROWS):
        bottom = min(top + _ROWS, height)
        rows: Array = np.asarray(image.crop((0, top, width, bottom)))
        grey[top:bottom] = np.clip(rows >> (depth.bits - 8), 0, 255)
    if depth.inverted:
        np.subtract(255, grey, out=grey)
    image.close()
    return importlib.import_module("PIL.Image").fromarray(grey)


def _in_srgb(image: Any, info: dict[str, Any], *, see_through: bool) -> Any:
    """Convert to sRGB. A profile that is damaged, or is for another kind of picture, counts as none."""
    if image.mode == "LAB":
        return _transformed(image, _lab_transform())
    profile = info.get("icc_profile")
    if not isinstance(profile, bytes) or not 0 < len(profile) <= _MAX_PROFILE_BYTES:
        return image
    if image.mode not in _SPACES:
        image = image.convert("RGBA" if see_through else "RGB")
    transform = _transform(profile, image.mode)
    return image if transform is None else _transformed(image, transform)


def _transformed(image: Any, transform: Any) -> Any:
    cms = importlib.import_module("PIL.ImageCms")
    if transform.output_mode != image.mode:
        return cms.applyTransform(image, transform)
    cms.applyTransform(image, transform, inPlace=True)
    return image


@lru_cache(maxsize=2)
def _transform(profile: bytes, mode: str) -> Any:
    """The transform from a profile to sRGB; None if it has no visible effect, or the profile does not fit."""
    try:
        cms = importlib.import_module("PIL.ImageCms")
    except ImportError:
        return None
    to_mode = "RGBA" if mode == "RGBA" else "RGB"
    try:
        source = cms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != _SPACES[mode]:
            return None
        transform = cms.buildTransform(
            source,
            cms.createProfile("sRGB"),
            mode,
            to_mode,
            renderingIntent=cms.Intent.RELATIVE_COLORIMETRIC,
            flags=cms.Flags.BLACKPOINTCOMPENSATION,
        )
        return None if mode != "CMYK" and _changes_nothing(transform, mode) else transform
    except (cms.PyCMSError, OSError, ValueError, TypeError):
        return None


@lru_cache(maxsize=1)
def _lab_transform() -> Any:
    try:
        cms = importlib.import_module("PIL.ImageCms")
    except ImportError:
        raise BadInputError(
            "a CIELAB picture, but this Pillow has no colour management", remedy="save it as sRGB"
        ) from None
    return cms.buildTransform(cms.createProfile("LAB"), cms.createProfile("sRGB"), "LAB", "RGB")


def _changes_nothing(transform: Any, mode: str) -> bool:
    """Whether a lattice of colours stays unchanged."""
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    if mode == "L":
        colours = np.repeat(steps[:, None, None], 3, axis=2)
        probe = colours[:, :, 0]
    else:
        colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 1, 3)
        probe = colours
    image = importlib.import_module("PIL.Image").fromarray(probe).convert(mode)
    found = np.asarray(_transformed(image, transform))[..., :3]
    return bool(np.abs(found.astype(int) - colours).max() <= _SAME)


def _without_gamma(image: Any, info: dict[str, Any]) -> Any:
    """Apply a PNG's gamma if it differs from a display's and no colour space is declared."""
    gamma = info.get("gamma")
    if not isinstance(gamma, float) or gamma <= 0 or "icc_profile" in info or "srgb" in info:
        return image
    exponent = 1 / (gamma * _DISPLAY_GAMMA)
    if abs(exponent - 1) <= _GAMMA_TOLERANCE:
        return image
    if image.mode in ("P", "PA", "1"):
        image = image.convert("RGBA" if _has_alpha(image) else "RGB")
    curve = np.rint(255 * (np.arange(256) / 255) ** exponent).astype(int).tolist()
    colours = len(image.getbands()) - (1 if image.mode in _ALPHA_MODES else 0)
    rest = list(range(256)) if image.mode in _ALPHA_MODES else []
    return image.point(curve * colours + rest)


def _on_white(image: Any) -> Any:
    """Put a picture with transparency on white."""
    if image.mode not in ("RGBA", "LA"):
        image = image.convert("RGBA")
    white = importlib.import_module("PIL.Image").new("RGB", image.size, _WHITE)
    white.paste(image, mask=image)
    return white

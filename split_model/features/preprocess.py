"""From a picture to the tensor a model takes: the one pre-processing of device, calibration and evaluation.

What is done is declared in the bundle (`ImagePreprocess`): turn the picture upright by its Exif
note, scale its shorter side to ``resize``, cut out the centre, ``(x - mean) / scale``, and
quantise where the model's input is quantised. Pillow is imported when a picture is opened or
scaled, not before, so that a device that is fed arrays of the right size does without it.
"""

from __future__ import annotations

import importlib
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model.bundle.manifest import ImagePreprocess, TensorSpec
from split_model.errors import BackendError, BadInputError, MissingInputError

Array = NDArray[Any]
Picture = NDArray[np.uint8]

#: A board has little memory: pictures of more pixels than this are refused before they are decoded.
MAX_PIXELS = 64 << 20
#: File name endings that are taken for pictures when a folder is read.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
_MODES = {"rgb": "RGB", "bgr": "RGB", "grey": "L"}
# What Pillow's decoders were seen to raise on damaged files.
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, OverflowError)
_DAMAGED = (*_DECODER_ERRORS, struct.error, zlib.error, MemoryError, RuntimeError)


def check_preprocess(preprocess: ImagePreprocess, spec: TensorSpec) -> None:
    """Raise `BadInputError` where the declared pre-processing does not make the tensor that ``spec`` describes."""
    channels = 1 if preprocess.colour == "grey" else 3
    expected = (1, *preprocess.crop, channels)
    if spec.shape != expected:
        raise BadInputError(
            f"pre-processing makes {list(expected)}, the model's input {spec.name!r} is {list(spec.shape)}; "
            "declare the crop and colour that the model was trained with"
        )
    if spec.dtype not in {"float32", "float16", "int8", "uint8"}:
        raise BadInputError(f"pictures go into float or 8-bit inputs, the model's {spec.name!r} is {spec.dtype}")
    for name, values in (("mean", preprocess.mean), ("scale", preprocess.scale)):
        if len(values) not in {1, channels} or not np.isfinite(values).all():
            raise BadInputError(f"pre-processing {name} {values} is not one finite number, or one a channel")
    if 0.0 in preprocess.scale:
        raise BadInputError("pre-processing scale is 0; it is what pixels are divided by")
    if preprocess.resize < 1 or min(preprocess.crop) < 1:
        raise BadInputError(
            f"pre-processing resize {preprocess.resize} and crop {preprocess.crop} must be positive"
        )


def open_picture(path: Path, preprocess: ImagePreprocess) -> Picture:
    """Decode a picture file upright into uint8 [height, width, 3], or [height, width, 1] for grey.

    Raises `MissingInputError` where there is no file and `BadInputError` where it is no picture,
    is cut short, or is too large; `BackendError` without Pillow.
    """
    image_module = _pillow("Image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata, which changes no pixel
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            with image_module.open(path, formats=_FORMATS) as image:
                _check_header(path, image)
                upright = _pillow("ImageOps").exif_transpose(image)
                pixels = np.asarray(upright.convert(_MODES[preprocess.colour]), dtype=np.uint8)
    except BadInputError:
        raise
    except FileNotFoundError:
        raise MissingInputError(f"{path}: no such picture") from None
    except PermissionError:
        raise MissingInputError(f"{path}: no permission to read it") from None
    except (image_module.DecompressionBombError, image_module.DecompressionBombWarning):
        raise BadInputError(
            f"{path}: claims over {MAX_PIXELS >> 20} megapixels; scale it down or remove it"
        ) from None
    except _DAMAGED as error:
        reason = "not a picture" if type(error).__name__ == "UnidentifiedImageError" else "a damaged picture"
        raise BadInputError(f"{path}: {reason} (reads {', '.join(_FORMATS)}); remove or replace it") from None
    return _channels_last(pixels, preprocess)


def picture_tensor(picture: Picture, preprocess: ImagePreprocess, spec: TensorSpec) -> Array:
    """Scale, crop, normalise and, where ``spec`` is quantised, quantise one picture.

    ``picture`` is uint8 [height, width, 3] (or [height, width] or [height, width, 1] for grey), in
    the order of colours RGB as cameras and files give it; the result has ``spec``'s shape and dtype.
    `BadInputError` for what is no such picture, or is so long and narrow that it cannot be scaled.
    """
    check_preprocess(preprocess, spec)
    channels = spec.shape[-1]
    if picture.dtype != np.uint8 or picture.ndim not in {2, 3} or 0 in picture.shape:
        raise BadInputError(
            f"a picture is uint8[height, width, {channels}], got {picture.dtype}{list(picture.shape)}"
        )
    pixels = picture[..., None] if picture.ndim == 2 else picture
    if pixels.shape[-1] != channels:
        raise BadInputError(f"the model takes {channels} channels, the picture has {pixels.shape[-1]}")
    cropped = _centre(_resized(pixels, preprocess), preprocess.crop)
    if preprocess.colour == "bgr":
        cropped = cropped[..., ::-1]
    real: Array = cropped.astype(np.float32) - np.asarray(preprocess.mean, np.float32)
    real = real / np.asarray(preprocess.scale, np.float32)
    return to_stored(real[None], spec)


def load_tensor(path: Path, preprocess: ImagePreprocess, spec: TensorSpec) -> Array:
    """A picture file as the model's input: `open_picture`, then `picture_tensor`."""
    return picture_tensor(open_picture(path, preprocess), preprocess, spec)


def to_stored(real: Array, spec: TensorSpec) -> Array:
    """Real values as ``spec`` stores them: rounded onto its grid where it has one, cast where it is float.

    An 8-bit input without a scale stores the real values themselves, rounded.
    """
    if spec.dtype in {"float32", "float16"}:
        return np.ascontiguousarray(real, dtype=spec.dtype)
    limits = np.iinfo(spec.dtype)
    scaled = real / np.float32(spec.scale or 1.0) + spec.zero_point
    stored: Array = np.clip(np.rint(scaled), limits.min, limits.max).astype(spec.dtype)
    return stored


def to_real(stored: Array, spec: TensorSpec) -> NDArray[np.float32]:
    """Stored values as float32 real ones: ``scale * (stored - zero_point)`` where ``spec`` has a scale."""
    if not spec.scale:
        return stored.astype(np.float32)
    real: NDArray[np.float32] = stored.astype(np.float32)
    real -= np.float32(spec.zero_point)
    real *= np.float32(spec.scale)
    return real


def _pillow(name: str) -> Any:
    try:
        return importlib.import_module(f"PIL.{name}")
    except ImportError:
        raise BackendError(
            "pictures need Pillow, which is not installed; install this package with [images]"
        ) from None


def _check_header(path: Path, image: Any) -> None:
    """Refuse, before anything is decoded, what is too large or has more than 8 bits a channel."""
    if image.width * image.height > MAX_PIXELS:
        raise BadInputError(
            f"{path}: {image.width} x {image.height} is over {MAX_PIXELS >> 20} megapixels; scale it down"
        )
    if image.mode.startswith(("I", "F")):
        raise BadInputError(f"{path}: more than 8 bits a channel ({image.mode}); save it with 8")


def _channels_last(pixels: Picture, preprocess: ImagePreprocess) -> Picture:
    return pixels[..., None] if preprocess.colour == "grey" else pixels


def _resized(pixels: Picture, preprocess: ImagePreprocess) -> Picture:
    """Scale the shorter side to ``resize``, keeping the proportions. `BadInputError` where that is too large."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    if short == preprocess.resize:
        return pixels
    size = (round(width * preprocess.resize / short), round(height * preprocess.resize / short))
    if size[0] * size[1] > MAX_PIXELS:  # a strip: a few pixels of it would fill the memory of a board
        raise BadInputError(
            f"a picture of {height} x {width} scaled to a shorter side of {preprocess.resize} is over "
            f"{MAX_PIXELS >> 20} megapixels; cut it to less extreme proportions"
        )
    image_module = _pillow("Image")
    image = image_module.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    scaled = image.resize(size, image_module.Resampling[preprocess.filter.upper()])
    return _channels_last(np.asarray(scaled, dtype=np.uint8), preprocess)


def _centre(pixels: Picture, crop: tuple[int, int]) -> Picture:
    height, width = pixels.shape[:2]
    if height < crop[0] or width < crop[1]:
        raise BadInputError(
            f"a picture of {height} x {width} is smaller than the crop of {crop[0]} x {crop[1]}; "
            "declare a larger resize"
        )
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    return pixels[top : top + crop[0], left : left + crop[1]]

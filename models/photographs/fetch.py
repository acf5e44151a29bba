"""Fetch real photographs from Python packages; none of them is committed.

usage: python -m models.photographs.fetch -o DIR

Writes DIR/labelled/<ImageNet class index>/imagenet_NN.jpg (20 photographs from foolbox, to
evaluate with), DIR/public/ (photographs from scikit-image, to calibrate with) and DIR/things/ (14
photographs from several packages, each of one thing that ImageNet has a class for, to calibrate an
ImageNet network with). The labelled photographs are in no other folder. DIR/faces/calibration and
DIR/faces/evaluation are 50 small faces each, also from scikit-image, on a plain ground with a
margin. The packages are unzipped, not installed.
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
# One file of a release for all machines: only its pictures are used, so the platform does not matter.
_X86_64 = (
    "--platform=manylinux_2_28_x86_64",
    "--python-version=3.11",
    "--implementation=cp",
    "--abi=cp311",
)
PUBLIC = wheels.Wheel(
    requirement="scikit-image==0.26.0",
    file_name="scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    pip_options=_X86_64,
)
#: Photographs that each show one thing of a class of ImageNet. README.md has the results with others of these
#: packages.
THINGS: tuple[tuple[wheels.Wheel, tuple[str, ...]], ...] = (
    (
        wheels.Wheel(
            requirement="gradio==6.31.0",
            file_name="gradio-6.31.0-py3-none-any.whl",
            sha256="7b50b9b6a2d23cd02851ad4c8b1c8312c88d8b911d1f29c93f9761c98348a64a",
        ),
        (
            "gradio/media_assets/images/cheetah.jpg",
            "gradio/media_assets/images/cheetah1.jpg",
            "gradio/test_data/cheetah2.jpg",
            "gradio/media_assets/images/lion.jpg",
        ),
    ),
    (
        wheels.Wheel(
            requirement="scikit-learn==1.9.1",
            file_name="scikit_learn-1.9.1-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
            sha256="52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
            pip_options=_X86_64,
        ),
        ("sklearn/datasets/images/china.jpg",),
    ),
    (
        wheels.Wheel(
            requirement="ultralytics==8.4.190",
            file_name="ultralytics-8.4.190-py3-none-any.whl",
            sha256="bd309728efa168af64d39040136828edd2dbcb4aeceb4510bdff4f3ca0ea01b8",
        ),
        ("ultralytics/assets/bus.jpg",),
    ),
    (
        wheels.Wheel(
            requirement="Orange3-ImageAnalytics==0.13.0",
            file_name="Orange3_ImageAnalytics-0.13.0-py3-none-any.whl",
            sha256="a273113ef613831737caddf43248ff19ed59ad6bf7550f637e2a9d8e21f0e9e9",
        ),
        (
            "orangecontrib/imageanalytics/widgets/tests/test_images/afternoon-4175917_640.jpg",
            "orangecontrib/imageanalytics/widgets/tests/test_images/kittens-4020199_640.jpg",
        ),
    ),
    (
        wheels.Wheel(
            requirement="fastbook==0.0.29",
            file_name="fastbook-0.0.29-py3-none-any.whl",
            sha256="3e665803571ef4914956a4a0e029c28e9a6e229858d426ccec466db5ced40e44",
        ),
        ("fastbook/images/grizzly.jpg",),
    ),
    (
        PUBLIC,
        tuple(
            f"skimage/data/{name}"
            for name in ("camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
        ),
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


def things() -> Iterator[tuple[str, bytes]]:
    """(relative path, content) of the photographs of one thing each; fetches the wheels that they are in."""
    for wheel, names in THINGS:
        path = wheels.fetch(wheel)
        for name in names:
            yield f"things/{name.rsplit('/', 1)[1]}", wheels.member(path, name)


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
        files = [*labelled(wheels.fetch(LABELLED)), *public(own), *things(), *faces(own)]
        for name, content in files:
            wheels.write_atomically(output / name, content)
    except SplitModelError as error:
        print(f"fetch: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{output / 'labelled'}  20 photographs of ImageNet classes")
    print(f"{output / 'faces'}  {_FACES} small faces, half to calibrate with and half to evaluate with")
    print(f"{output / 'things'}  {sum(len(names) for _, names in THINGS)} of one thing each, to calibrate with")
    print(f"{output / 'public'}  {len(PUBLIC_NAMES)} others")
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())

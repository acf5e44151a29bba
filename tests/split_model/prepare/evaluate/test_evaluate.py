"""Evaluation of a small bundle whose answers are known."""

import os

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace as with_fields

from split_model.bundle import (
    AllocationChoice,
    AllocationTrial,
    Bundle,
    OutputSchema,
    TopK,
    evaluation,
    file_ref,
    write_manifest,
)
from split_model.bundle.evaluation import Evaluation
from split_model.cli import main
from split_model.errors import BadBundleError, BadInputError, ConfigError, UsageError
from split_model.prepare.assemble import write_bundle
from split_model.prepare.calibrate.calibration import CalibrationOptions, CutModels, calibrate
from split_model.prepare.evaluate.measure import bootstrap, evaluate, wilson
from split_model.prepare.evaluate.text import render
from split_model.prepare.tflite.cuts import find_cuts
from split_model.prepare.tflite.reading import read_model
from split_model.privacy import NoiseSpec


def test_wilson_intervals_are_the_published_ones():
    share = wilson(0.5, 10)
    assert (round(share.low, 4), round(share.high, 4)) == (0.2366, 0.7634)
    assert (round(wilson(1.0, 20).low, 4), wilson(1.0, 20).high) == (0.8389, 1.0)
    assert wilson(0.0, 20).low == 0.0
    with pytest.raises(ValueError, match="no samples"):
        wilson(0.5, 0)


@pytest.fixture(scope="module")
def inputs():
    """40 inputs of four classes: class c has its energy in channel c."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 4
    rows = rng.normal(0, 0.3, (40, 4, 4, 4)).astype(np.float32)
    rows[np.arange(40), :, :, labels] += 1.0
    return rows, labels


@pytest.fixture(scope="module")
def make(builder, inputs, tmp_path_factory):
    """A bundle of image -> 1x1 conv (x2) -> mean: its answer is the channel of most energy."""

    def bundle(*, calibrated=True, labels=None):
        root = tmp_path_factory.mktemp("bundle")
        build = builder()
        image = build.tensor([1, 4, 4, 4], name="image")
        bias = build.tensor([4], np.zeros(4, np.float32))
        doubled = build.tensor([4, 1, 1, 4], 2 * np.eye(4, dtype=np.float32)[:, None, None])
        conv = build.op("CONV_2D", [image, doubled, bias], [1, 4, 4, 4])
        flat = build.op("RESHAPE", [conv, build.tensor([2], np.array([1, 64], np.int32), dtype="int32")], [1, 64])
        sums = build.tensor([4, 64], np.tile(np.eye(4, dtype=np.float32), 16))
        logits = build.op("FULLY_CONNECTED", [flat, sums, -1], [1, 4])
        path = root / "source.tflite"
        path.write_bytes(build.build([image], [logits]))
        model = read_model(path)
        answer = None
        if labels is not None:
            (root / "labels.txt").write_text("\n".join(labels))
            answer = TopK(k=1, labels=file_ref(root, "labels.txt"))
        cuts = find_cuts(model.graph).legal
        manifest = write_bundle(root, model_path=path, model=model, cuts=cuts, name="sums", answer=answer)
        if calibrated:
            models = [
                CutModels(
                    cut.index,
                    None if cut.head is None else root / cut.head.path,
                    root / cut.tail.path,
                    cut.tensors,
                )
                for cut in manifest.cuts
            ]
            rows = [(row[None],) for row in inputs[0]]
            found = calibrate(models, rows, options=CalibrationOptions(quantile=1.0, threads=1))
            cuts = tuple(with_fields(cut, calibration=found[cut.index]) for cut in manifest.cuts)
            manifest = with_fields(manifest, cuts=cuts)
        write_manifest(root, manifest)
        return Bundle.open(root)

    return bundle


@pytest.fixture(scope="module")
def bundle(make):
    return make()


@pytest.fixture(scope="module")
def data(inputs, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, inputs=inputs[0], labels=inputs[1])
    return path


def test_weak_noise_keeps_every_answer_and_strong_noise_does_not(bundle, data):
    found = evaluate(bundle, data, entropy=os.urandom, epsilons=[200.0, 0.06], draws=2)
    assert found.data.samples == found.data.labelled == 40
    assert found.unprotected_accuracy.value == 1.0
    assert [row.cut for row in found.rows] == sorted([cut.index for cut in bundle.manifest.cuts] * 3)
    for clip, weak, strong in zip(*[iter(found.rows)] * 3, strict=True):
        assert clip.spec is None
        assert clip.agreement.value == clip.accuracy.value == weak.agreement.value == 1.0
        assert 0.05 < strong.agreement.value < 0.9
        assert strong.accuracy.value == strong.agreement.value  # the unprotected model is right every time here
        assert (weak.agreement.samples, weak.draws, clip.draws) == (40, 2, 1)


def test_both_epsilons_and_the_payload_are_those_of_the_plan(bundle, data):
    found = evaluate(bundle, data, entropy=os.urandom, epsilons=[8.0], allocations=["uniform"], draws=1, cuts=[0])
    _, row = found.rows
    assert row.per_value_epsilon_max == pytest.approx(8.0, rel=1e-6)
    assert row.whole_input_epsilon == pytest.approx(8.0 * 64, rel=1e-6)
    assert row.payload_bytes == 64
    text = render(found)
    assert "512" in text
    assert text.split("uniform eps=8")[1].split()[:4] == ["64", "bytes", "8", "512"]
    assert "accuracy" in text


def test_data_without_labels_has_no_accuracy(bundle, inputs, tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, inputs=inputs[0])
    found = evaluate(bundle, path, entropy=os.urandom, epsilons=[50.0], draws=1, cuts=[0])
    assert found.unprotected_accuracy is None
    assert all(row.accuracy is None for row in found.rows)
    assert "accuracy" not in render(found)


def test_labels_may_be_wrong_while_answers_agree(bundle, inputs, tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, inputs=inputs[0], labels=(inputs[1] + 1) % 4)
    found = evaluate(bundle, path, entropy=os.urandom, epsilons=[200.0], draws=1, cuts=[0])
    assert [row.agreement.value for row in found.rows] == [1.0, 1.0]
    assert [row.accuracy.value for row in found.rows] == [0.0, 0.0]
    assert found.unprotected_accuracy.value == 0.0


def test_progress_is_told_once_a_sample(bundle, data):
    seen = []
    evaluate(
        bundle, data, entropy=os.urandom, epsilons=[], draws=1, cuts=[0], progress=lambda *step: seen.append(step)
    )
    assert seen == [("evaluating", done, 40) for done in range(1, 41)]


def test_what_does_not_fit_is_refused(bundle, make, data, inputs, tmp_path):
    options = {"entropy": os.urandom, "epsilons": [8.0]}
    with pytest.raises(UsageError, match="cut 77 is not offered"):
        evaluate(bundle, data, cuts=[77], **options)
    with pytest.raises(UsageError, match="draws"):
        evaluate(bundle, data, draws=0, **options)
    with pytest.raises(ConfigError, match="epsilon"):
        evaluate(bundle, data, entropy=os.urandom, epsilons=[-1.0])
    plain = make(calibrated=False)
    with pytest.raises(BadBundleError, match="no cut has a calibration"):
        evaluate(plain, data, **options)
    with pytest.raises(BadBundleError, match="cut 0 has no calibration"):
        evaluate(plain, data, cuts=[0], **options)
    path = tmp_path / "data.npz"
    np.savez(path, inputs=inputs[0], labels=inputs[1] + 4)
    with pytest.raises(BadInputError, match="classes 0 to 3"):
        evaluate(bundle, path, **options)


@pytest.fixture
def prepared(residual, tmp_path):
    """A bundle folder and the data it was prepared with."""
    np.savez(tmp_path / "data.npz", inputs=np.random.default_rng(0).normal(size=(6, 4, 4, 2)).astype(np.float32))
    (tmp_path / "net.tflite").write_bytes(residual())
    arguments = [tmp_path / "net.tflite", "-o", tmp_path / "b", "--calibration", tmp_path / "data.npz"]
    assert main(["prepare", *map(str, arguments)]) == 0
    return tmp_path / "b", tmp_path / "data.npz"


def test_the_command_stores_draws_and_leaves_the_identity_alone(prepared, tmp_path, capsys):
    root, data = prepared
    before = Bundle.open(root).identity
    arguments = ["evaluate", root, "--data", data, "--draws", "1", "--epsilon", "16"]

    def run(*more):
        assert main([str(each) for each in (*arguments, *more)]) == 0
        return capsys.readouterr()

    for name, start in (("plot.png", b"\x89PNG"), ("plot.svg", b"<?xml")):
        assert run("--plot", tmp_path / name).err
        assert (tmp_path / name).read_bytes().startswith(start)
    measured = evaluation.load(Bundle.open(root))
    assert measured.rows == ()  # `prepare` measured something, and nothing is added without --store
    said = run("--store", "--json", "--allocation", "rank", "--allocation", "auto")
    printed = msgspec.json.decode(said.out, type=Evaluation)
    bundle = Bundle.open(root)
    assert bundle.identity == before
    assert evaluation.load(bundle) == with_fields(printed, prepared=measured.prepared)
    for cut in bundle.manifest.cuts:
        assert printed.find(cut.index, NoiseSpec(epsilon=16.0, allocation="rank")) is not None
        assert printed.find(cut.index, NoiseSpec(epsilon=16.0, allocation=cut.allocation.best)) is not None
    assert main([str(each) for each in (*arguments, "--plot", tmp_path / "plot.pdf")]) == os.EX_USAGE


def test_an_answer_that_is_no_class_agrees_where_its_error_is_small(make, data, inputs, tmp_path):
    plain = make()
    schema = (OutputSchema(name="position", shape=(4,), meaning="metres"),)
    write_manifest(plain.root, with_fields(plain.manifest, answer_schema=schema))
    bundle = Bundle.open(plain.root)
    path = tmp_path / "unlabelled.npz"
    np.savez(path, inputs=inputs[0])
    found = evaluate(bundle, path, entropy=os.urandom, epsilons=[200.0, 1.0], draws=2, cuts=[0])
    clip, weak, strong = found.rows
    assert clip.agreement.value == 1.0
    assert weak.agreement.value > 0.95 > 0.3 > strong.agreement.value
    assert clip.output_error.value < 1e-9
    assert weak.output_error.value < 0.01 < strong.output_error.value
    assert strong.output_error.low < strong.output_error.value < strong.output_error.high
    text = render(found)
    assert "accuracy" not in text
    assert "output error" in text
    with pytest.raises(BadInputError, match="not a class"):
        evaluate(bundle, data, entropy=os.urandom, epsilons=[1.0], cuts=[0])


def test_auto_is_measured_as_what_it_stands_for(bundle, data):
    trial = AllocationTrial(allocation="rank", relative_cost=1.0, output_error=0.1)
    choice = AllocationChoice(best="rank", epsilon=16.0, bits=8, samples=4, draws=1, trials=(trial,))
    cuts = tuple(with_fields(cut, allocation=choice) for cut in bundle.manifest.cuts)
    other = Bundle(bundle.root, with_fields(bundle.manifest, cuts=cuts), bundle.identity)
    found = evaluate(
        other, data, entropy=os.urandom, epsilons=[8.0], allocations=["auto", "rank"], draws=1, cuts=[0]
    )
    assert [row.spec and row.spec.allocation for row in found.rows] == [None, "rank"]


def test_bootstrap_intervals_are_those_of_the_mean():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    mean = bootstrap(values.tolist())
    assert mean.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert mean.low == pytest.approx(mean.value - half, abs=0.03)
    assert mean.high == pytest.approx(mean.value + half, abs=0.03)

"""Labels and scores: what `prepare` declares of a model's ending, and the scores that an answer then has."""

import zipfile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from split_model.answers.classes import class_fields
from split_model.bundle import Bundle
from split_model.cli import main
from split_model.features.data import read_labels
from split_model.interpreter import open_interpreter
from split_model.prepare.tflite.ending import ending_of
from split_model.prepare.tflite.reading import parse_model
from tests.split_model.prepare.strange_models import Strange

LOGITS = np.array([[9.0, 0.0, -2.0, 0.5]], np.float32)
SOFTMAX = np.exp(LOGITS[0]) / np.exp(LOGITS[0]).sum()
PAIRS = np.concatenate([np.exp(pair) / np.exp(pair).sum() for pair in LOGITS[0].reshape(2, 2)])
SIGMOID = 1 / (1 + np.exp(-LOGITS[0]))


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("cat\ndog\nbird\nfish\n")
    return path


def ints(build, values):
    return build.tensor([len(values)], np.asarray(values, np.int32), dtype="int32")


def endings(build, kind):
    """A model of [1, 4] in and [1, 4] out, or as many values, that ends as ``kind`` says."""
    given = build.tensor([1, 4], name="x")
    ones = build.tensor([1, 4], np.ones((1, 4), np.float32))
    x = build.op("ADD", [given, build.tensor([1, 4], np.zeros((1, 4), np.float32))], [1, 4])
    grid = {"dtype": "uint8", "scale": [1 / 256]}
    steps = kind.split("+")
    for step in steps:
        shape = [int(side) for side in build.graph.tensors[x].shape]
        if step in ("SOFTMAX", "LOGISTIC", "LOG_SOFTMAX"):
            x = build.op(step, [x], shape)
        elif step == "RESHAPE":
            x = build.op("RESHAPE", [x, ints(build, [1, 1, 1, 4])], [1, 1, 1, 4])
        elif step == "SQUEEZE":
            x = build.op("SQUEEZE", [x], [side for side in shape if side > 1])
        elif step == "QUANTIZE":
            x = build.op("QUANTIZE", [x], build.tensor(shape, **grid))
        elif step == "DEQUANTIZE":
            x = build.op("DEQUANTIZE", [x], shape)
        elif step == "WRITTEN_OUT":
            powers = build.op("EXP", [x], shape)
            x = build.op("DIV", [powers, build.op("SUM", [powers, ints(build, [1])], [1, 1])], shape)
        elif step == "MUL":
            x = build.op("MUL", [x, ones], shape)
        elif step == "PERCENT":
            x = build.op("MUL", [x, build.tensor([1], np.float32([100]))], shape)
        elif step == "BOUNDS":
            x = build.op("MAXIMUM", [x, build.tensor([1], np.float32([1e-7]))], shape)
        elif step == "MEAN":
            x = build.op("MUL", [build.op("ADD", [x, x], shape), build.tensor([1], np.float32([0.5]))], shape)
        elif step == "HALVES":
            first, second = build.tensor([1, 2]), build.tensor([1, 2])
            build.op("SPLIT", [build.tensor([], np.int32(1), dtype="int32"), x], [first, second])
            x = build.op("CONCATENATION", [second, first], shape, axis=1)
        elif step == "PAIRS":
            pairs = build.op("RESHAPE", [x, ints(build, [2, 2])], [2, 2])
            pairs = build.op("SOFTMAX", [pairs], [2, 2])
            x = build.op("RESHAPE", [pairs, ints(build, [1, 4])], [1, 4])
    return given, x


def prepared(tmp_path, labels, model, *options):
    path = tmp_path / "net.tflite"
    path.write_bytes(model)
    made = main(["prepare", str(path), "-o", str(tmp_path / "b"), "--labels", str(labels), *options])
    return made, Bundle.open(tmp_path / "b") if made == 0 else None


def scores_of(bundle, inputs=LOGITS):
    """The scores that a board writes, by label."""
    outputs = open_interpreter(bundle.path(bundle.manifest.model)).run([inputs])
    names = read_labels(bundle.path(bundle.manifest.answer.labels))
    top = class_fields(outputs, bundle.manifest.outputs, bundle.manifest.answer, names)["top"]
    return {entry["label"]: entry["score"] for entry in top}


@pytest.mark.parametrize(
    ("kind", "scores", "expected"),
    [
        ("PLAIN", "logits", SOFTMAX),
        ("LOG_SOFTMAX", "logits", SOFTMAX),
        ("SOFTMAX", "probabilities", SOFTMAX),
        ("WRITTEN_OUT", "probabilities", SOFTMAX),
        ("SOFTMAX+RESHAPE", "probabilities", SOFTMAX),
        ("SOFTMAX+RESHAPE+SQUEEZE", "probabilities", SOFTMAX),
        ("SOFTMAX+QUANTIZE", "probabilities", SOFTMAX),
        ("SOFTMAX+QUANTIZE+DEQUANTIZE", "probabilities", SOFTMAX),
        ("SOFTMAX+BOUNDS", "probabilities", SOFTMAX),
        ("SOFTMAX+MUL", "probabilities", SOFTMAX),
        ("SOFTMAX+MEAN", "probabilities", SOFTMAX),
        ("SOFTMAX+HALVES", "multilabel-probabilities", SOFTMAX[[2, 3, 0, 1]]),
        ("SOFTMAX+PERCENT", "values", 100 * SOFTMAX),
        ("PAIRS", "multilabel-probabilities", PAIRS),
        ("LOGISTIC", "multilabel-probabilities", SIGMOID),
        ("LOGISTIC+MUL", "multilabel-probabilities", SIGMOID),
        ("LOGISTIC+HALVES", "multilabel-probabilities", SIGMOID[[2, 3, 0, 1]]),
        ("LOGISTIC+RESHAPE+QUANTIZE+DEQUANTIZE", "multilabel-probabilities", SIGMOID),
    ],
)
def test_the_end_of_the_graph_says_what_scores_are(tmp_path, labels, builder, kind, scores, expected):
    build = builder()
    given, out = endings(build, kind)
    code, bundle = prepared(tmp_path, labels, build.build([given], [out]))
    assert (code, bundle.manifest.answer.scores) == (0, scores)
    found = scores_of(bundle)
    assert found["cat"] == pytest.approx(expected[0], abs=0.005)
    assert found["fish"] == pytest.approx(expected[3], abs=0.005)


@pytest.mark.parametrize(
    ("kind", "scores", "match"),
    [
        ("PLAIN", "probabilities", "declared as probabilities, but adds up to"),
        ("LOGISTIC", "probabilities", "declared as probabilities, but adds up to"),
        ("PAIRS", "probabilities", "declared as probabilities, but adds up to 2 to 2"),
        ("PLAIN", "multilabel-probabilities", "declared as probabilities of each class, but its values are"),
    ],
)
def test_what_is_no_probability_is_not_declared_one(tmp_path, labels, builder, capsys, kind, scores, match):
    build = builder()
    given, out = endings(build, kind)
    code, _ = prepared(tmp_path, labels, build.build([given], [out]), "--scores", scores)
    assert code == 65
    said = capsys.readouterr().err
    assert match in said
    assert "declare --scores logits, multilabel-logits or multilabel-probabilities, or values" in said
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(("scores", "expected"), [("multilabel-logits", SIGMOID[0]), ("values", 9.0)])
def test_declared_scores_are_written_as_they_say(tmp_path, labels, builder, scores, expected):
    build = builder()
    given, out = endings(build, "PLAIN")
    _, bundle = prepared(tmp_path, labels, build.build([given], [out]), "--scores", scores)
    assert scores_of(bundle)["cat"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("kind", "scores"), [("SOFTMAX", "probabilities"), ("PAIRS", "multilabel-probabilities")])
def test_probabilities_that_are_declared_logits_are_pointed_out(tmp_path, labels, builder, capsys, kind, scores):
    build = builder()
    given, out = endings(build, kind)
    code, bundle = prepared(tmp_path, labels, build.build([given], [out]), "--scores", "logits")
    assert (code, bundle.manifest.answer.scores) == (0, "logits")
    assert f"probabilities need --scores {scores}" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["SOFTMAX+MUL", "LOGISTIC+MUL", "SOFTMAX+PERCENT"])
def test_scores_that_only_the_answers_tell_are_warned_of(tmp_path, labels, builder, capsys, kind):
    build = builder()
    given, out = endings(build, kind)
    assert prepared(tmp_path, labels, build.build([given], [out]))[0] == 0
    said = capsys.readouterr().err
    assert "WARNING scores of output 0 taken as" in said
    assert "answers tried" in said


def test_a_long_chain_of_ops_is_no_ending(builder):
    build = builder()
    given, out = endings(build, "SOFTMAX" + "+HALVES" * 500)
    assert ending_of(parse_model(build.build([given], [out])).graph, 0).kind == "plain"


def test_values_in_order_of_size_are_no_classes(tmp_path, labels, builder, capsys):
    """The places of TOPK_V2's values are ranks: the first one would always be the first label."""
    build = Strange()
    given, out = endings(build, "SOFTMAX")
    best, places = build.tensor([1, 4]), build.tensor([1, 4], dtype="int32")
    count = build.tensor([], np.int32(4), dtype="int32")
    build.apply("TOPK_V2", [out, count], best, places, options="TopKV2Options")
    code, _ = prepared(tmp_path, labels, build.build([given], [best, places]), "--labels-output", "0")
    assert code == 65
    assert "TOPK_V2 has put its values in order of size" in capsys.readouterr().err
    code, bundle = prepared(tmp_path, labels, build.build([given], [best, out]))
    assert (code, bundle.manifest.answer.output) == (0, 1)


def test_of_several_heads_the_one_that_the_labels_fit_is_read(tmp_path, labels, builder):
    build = builder()
    given, out = endings(build, "SOFTMAX")
    wide = build.op("CONCATENATION", [given, given], [1, 8], axis=1)
    code, bundle = prepared(tmp_path, labels, build.build([given], [wide, out]))
    assert (code, bundle.manifest.answer.output, bundle.manifest.answer.scores) == (0, 1, "probabilities")
    assert scores_of(bundle)["cat"] == pytest.approx(SOFTMAX[0], abs=1e-4)


def test_a_head_can_be_named(tmp_path, labels, builder, capsys):
    build = builder()
    given, out = endings(build, "SOFTMAX")
    code, bundle = prepared(tmp_path, labels, build.build([given], [given, out]), "--labels-output", "1")
    assert (code, bundle.manifest.answer.output) == (0, 1)
    code, _ = prepared(tmp_path, labels, build.build([given], [given, out]), "--force", "--labels-output", "2")
    assert code == 65
    assert "the model has outputs 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ([1, 8, 8, 4], "a map of 64 places with 4 values each"),
        ([1, 1, 8, 4], "a map of 8 places"),
        ([8, 4], "a batch of 8 vectors of 4"),
        ([1, 8, 4], "several vectors"),
        ([4, 4], "a batch of 4 vectors of 4"),
        ([1, 4, 4, 1], "a map of 16 places"),
    ],
)
def test_labels_on_what_is_no_vector_are_refused_with_the_shape(tmp_path, labels, builder, capsys, shape, why):
    build = builder()
    given = build.tensor(shape, name="x")
    out = build.op("LOGISTIC", [given], shape)
    code, _ = prepared(tmp_path, labels, build.build([given], [out]))
    assert code == 65
    said = capsys.readouterr().err
    assert str(shape) in said
    assert why in said
    assert "--answer detections, map, landmarks or vector, or leave --labels out" in said


@pytest.mark.parametrize(("names", "hint"), [("cat\ndog\nbird\n", "background"), ("a\nb\n", "one label a class")])
def test_as_many_labels_as_classes(tmp_path, labels, builder, capsys, names, hint):
    labels.write_text(names)
    build = builder()
    given, out = endings(build, "SOFTMAX")
    code, _ = prepared(tmp_path, labels, build.build([given], [out]))
    assert code == 65
    said = capsys.readouterr().err
    assert "the model's first output has 4 classes" in said
    assert hint in said


def test_labels_from_windows_are_read(tmp_path, labels, builder):
    labels.write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\nbird\r\nfish\r\n")
    build = builder()
    given, out = endings(build, "SOFTMAX")
    code, bundle = prepared(tmp_path, labels, build.build([given], [out]))
    assert code == 0
    assert sorted(scores_of(bundle)) == ["bird", "cat", "dog", "fish"]


def test_the_number_of_a_class_is_no_score(tmp_path, labels, builder, capsys):
    build = Strange()
    given, out = endings(build, "SOFTMAX")
    wide = {"options": "ArgMaxOptions", "outputType": schema.TensorType.INT64}
    best = build.apply("ARG_MAX", [out, build.ints([1])], build.tensor([1], dtype="int64"), **wide)
    assert prepared(tmp_path, labels, build.build([given], [best]))[0] == 65
    assert "it is the number of a class, by ARG_MAX" in capsys.readouterr().err
    code, bundle = prepared(tmp_path, labels, build.build([given], [best, out]))
    assert (code, bundle.manifest.answer.output) == (0, 1)


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\nbird\nfish\n\n\n",
        "0 cat\n1 dog\n2 bird\n3 fish\n",
        "1: cat\n2: dog\n3: bird\n4: fish\n",
        "3\tfish\n0\tcat\n1\tdog\n2\tbird\n",
    ],
    ids=["blank-end", "numbered", "from-one", "shuffled"],
)
def test_numbers_and_blank_lines_at_the_end_are_no_labels(tmp_path, labels, builder, text):
    labels.write_text(text)
    build = builder()
    given, out = endings(build, "SOFTMAX")
    code, bundle = prepared(tmp_path, labels, build.build([given], [out]))
    assert code == 0
    assert scores_of(bundle)["cat"] == pytest.approx(SOFTMAX[0], abs=1e-3)
    assert sorted(scores_of(bundle)) == ["bird", "cat", "dog", "fish"]


def test_numbers_with_gaps_are_places(tmp_path, labels, builder):
    labels.write_text("0  cat\n2  bird\n3  fish\n")
    build = builder()
    given, out = endings(build, "SOFTMAX")
    code, bundle = prepared(tmp_path, labels, build.build([given], [out]))
    assert code == 0
    assert scores_of(bundle)["bird"] == pytest.approx(SOFTMAX[2], abs=1e-3)
    assert "???" in scores_of(bundle)


def test_names_that_begin_with_numbers_stay(tmp_path, labels, builder):
    labels.write_text("1 euro\n2 euro\n5 cent\n50 cent\n")
    build = builder()
    given, out = endings(build, "SOFTMAX")
    _, bundle = prepared(tmp_path, labels, build.build([given], [out]))
    assert sorted(scores_of(bundle)) == ["1 euro", "2 euro", "5 cent", "50 cent"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("cat\n\ndog\nbird\nfish\n", "5 labels (line 2 is blank)"),
        ('item {\n id: 1\n name: "cat"\n}\n', "not a plain text of labels"),
    ],
)
def test_what_is_no_list_of_names_is_refused(tmp_path, labels, builder, capsys, text, match):
    labels.write_text(text)
    build = builder()
    given, out = endings(build, "SOFTMAX")
    assert prepared(tmp_path, labels, build.build([given], [out]))[0] == 65
    assert match in capsys.readouterr().err


def test_two_labels_of_one_score(tmp_path, labels, builder, capsys):
    labels.write_text("good\nbad\n")
    build = builder()
    given = build.tensor([1, 1])
    out = build.op("LOGISTIC", [given], [1, 1])
    assert prepared(tmp_path, labels, build.build([given], [out]))[0] == 65
    assert "the one that a high score means" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "taken"), [("cat\ndog\nbird\nfish\n", True), ("a\nb\n", False), ("", False)])
def test_labels_in_the_models_file_are_taken_where_they_fit(tmp_path, builder, capsys, text, taken):
    build = builder()
    given, out = endings(build, "SOFTMAX")
    model = tmp_path / "net.tflite"
    model.write_bytes(build.build([given], [out]))
    with zipfile.ZipFile(model, "a") as archive:
        archive.writestr("labelmap.txt", text)
    assert main(["prepare", str(model), "-o", str(tmp_path / "b")]) == 0
    bundle = Bundle.open(tmp_path / "b")
    assert (bundle.manifest.answer is not None) == taken
    if taken:
        assert scores_of(bundle)["cat"] == pytest.approx(SOFTMAX[0], abs=1e-3)
        assert "4 labels taken from 'labelmap.txt' in the model's file" in capsys.readouterr().err


def test_labels_in_a_damaged_archive_are_told_and_not_taken(tmp_path, builder, capsys):
    build = builder()
    given, out = endings(build, "SOFTMAX")
    model = tmp_path / "net.tflite"
    model.write_bytes(build.build([given], [out]))
    with zipfile.ZipFile(model, "a") as archive:
        archive.writestr("labelmap.txt", "cat\ndog\nbird\nfish\n")
    model.write_bytes(model.read_bytes().replace(b"bird", b"birt"))  # the checksum says so
    assert main(["prepare", str(model), "-o", str(tmp_path / "b")]) == 0
    assert Bundle.open(tmp_path / "b").manifest.answer is None
    assert "the labels inside cannot be read (Bad CRC-32" in capsys.readouterr().err

"""What ``--answer`` declares, what is taken from the model, and what `evaluate` and `preview` make of it."""

import json
import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from models.shapes.pictures import LABELS, scene
from split_model.answers.reader import AnswerReader
from split_model.bundle import Bundle
from split_model.cli import main
from split_model.errors import BadBundleError
from split_model.features.data import open_data
from split_model.interpreter import open_interpreter
from split_model.report.device_log import read_device_log
from tests.split_model.prepare.strange_models import rows_by_the_data

CASES = Path(__file__).parent / "cases"
SHAPES = Path(__file__).parents[3] / "models" / "shapes"
INPUT = ["--letterbox", "--mean", "0", "--std", "255"]


@pytest.fixture
def prepare(tmp_path, capsys, caplog):
    """Runs the command; the exit code, the bundle if there is one, and all that was said."""

    def run(model, *arguments, answer=None):
        caplog.set_level("INFO")
        options = []
        if answer is not None:
            (tmp_path / "answer.json").write_text(json.dumps(answer))
            options = ["--answer", str(tmp_path / "answer.json")]
        code = main(["prepare", str(model), "-o", str(tmp_path / "b"), *map(str, arguments), *options])
        said = capsys.readouterr()
        return code, Bundle.open(tmp_path / "b") if code == 0 else None, said.err + said.out + caplog.text

    return run


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(5)
    for number in range(6):
        made = scene(rng, *((96, 96), (120, 160))[number % 2])
        Image.fromarray(made.picture).save(folder / f"{number}.png")
    return folder


def floats(path, *shape, count=6):
    np.savez(path, inputs=np.random.default_rng(3).normal(size=(count, *shape)).astype(np.float32))
    return path


@pytest.mark.parametrize(("name", "shape"), [("ssd_full", (1, 8)), ("ssd_backbone", (1, 32, 32, 3))])
def test_a_model_that_ends_in_tflites_own_op_answers_boxes(prepare, tmp_path, name, shape):
    labels = tmp_path / "labels.txt"
    labels.write_text("person\ncar\n")
    data = floats(tmp_path / "data.npz", *shape)
    code, bundle, said = prepare(CASES / f"{name}.tflite", "--labels", labels, "--calibration", data)
    assert code == 0
    assert "outputs 0, 1, 2, 3 taken as detections: layout postprocess, boxes yxyx in fraction" in said
    reader = AnswerReader.of(bundle)
    whole = open_interpreter(bundle.path(bundle.manifest.model))
    for sample in open_data(data, bundle.manifest.inputs, None):
        outputs = whole.run(sample.tensors)
        found = reader.fields(outputs)["detections"]
        scores = [float(score) for score in outputs[2].ravel()[: int(outputs[3].item())] if score >= 0.4]
        assert len(found) <= len(scores)
        assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
        assert all(round(score, 4) in [round(one, 4) for one in scores] for score in [f["score"] for f in found])
        assert {one["label"] for one in found} <= {"person", "car"} | {str(n) for n in range(2, 99)}


def test_rows_that_depend_on_the_data_are_boxes(prepare, tmp_path):
    """A bundle of NMS output: as many boxes as there are rows of a fair score."""
    data = floats(tmp_path / "data.npz", 1, 8)
    answer = {"kind": "detections", "threshold": 0.0, "order": "yxyx", "suppress": "none"}
    code, bundle, said = prepare(CASES / "nms_dyn.tflite", "--calibration", data, answer=answer)
    assert code == 0
    assert "layout rows, boxes yxyx" in said
    whole = open_interpreter(bundle.path(bundle.manifest.model))
    counts = set()
    for sample in open_data(data, bundle.manifest.inputs, None):
        outputs = whole.run(sample.tensors)
        found = AnswerReader.of(bundle).read([one.astype(np.float64) for one in outputs])
        assert len(found.scores) == (outputs[0][:, 4] >= 0).sum()
        counts.add(len(found.scores))
    assert len(counts) > 1


@pytest.mark.parametrize("max_rows", [None, 12, 2])
def test_the_declared_bound_of_rows(prepare, tmp_path, max_rows):
    """As many rows as values are above zero: a declared bound is taken, and one that answers exceed is refused."""
    content, data = rows_by_the_data()
    model = tmp_path / "rows.tflite"
    model.write_bytes(content)
    np.savez(tmp_path / "data.npz", **data)
    answer = {"kind": "detections", "layout": "rows", "unit": "pixels", "scores": "values", "threshold": 0.0}
    answer |= {} if max_rows is None else {"max_rows": max_rows}
    code, bundle, said = prepare(model, "--calibration", tmp_path / "data.npz", answer=answer)
    if max_rows is None:
        assert code == 65
        assert '"max_rows"' in said
    elif max_rows == 2:
        assert code == 65
        assert "expected float32[2, 6]" in said
    else:
        assert code == 0, said
        (spec,) = bundle.manifest.outputs
        assert (spec.shape, spec.open_axes) == ((12, 6), (0,))


def test_a_map_with_its_labels(prepare, tmp_path, pictures):
    labels = SHAPES / "mask-labels.txt"
    common = [SHAPES / "segmenter.tflite", "--labels", labels, *INPUT]
    code, _, said = prepare(*common)
    assert code == 65
    assert "--answer detections, map" in said
    code, bundle, said = prepare(*common, "--answer", "map", "--cuts", "at:4", "--calibration", pictures)
    assert code == 0
    assert "output 0 taken as a map: classes along axis 3" in said
    assert (bundle.manifest.reading.axis, bundle.manifest.labels.path) == (3, "labels.txt")
    assert main(["evaluate", str(bundle.root), "--data", str(pictures), "--epsilon", "32", "--json"]) == 0


def test_detections_are_evaluated_and_drawn(prepare, tmp_path, pictures, capsys):
    """What noise costs them, in their own measure; clipping alone costs next to nothing."""
    arguments = ["--cuts", "at:5", "--calibration", pictures, "--answer", SHAPES / "detections.json"]
    code, bundle, said = prepare(SHAPES / "detector.tflite", *INPUT, *arguments)
    assert code == 0
    assert "scores multilabel-logits" in said
    assert "boxes per answer in 6 answers" in said
    assert main(["evaluate", str(bundle.root), "--data", str(pictures), "--epsilon", "64", "--epsilon", "1"]) == 0
    table = capsys.readouterr().out
    assert "mAP50" in table
    assert re.search(r"\d\.\d{3} \d\.\d\d–\d\.\d\d", table)  # with its interval
    assert main(["evaluate", str(bundle.root), "--data", str(pictures), "--epsilon", "64", "--epsilon", "1",
                 "--json"]) == 0  # fmt: skip
    clip, little, much = json.loads(capsys.readouterr().out)["rows"]
    assert clip["figure"]["measure"] == "mAP50"
    assert clip["figure"]["mean"]["value"] > 0.9
    assert little["figure"]["mean"]["value"] > 0.8 > 0.3 > much["figure"]["mean"]["value"]
    assert little["agreement"]["value"] > 0.8 > 0.3 > much["agreement"]["value"]
    drawn = tmp_path / "drawn.png"
    assert main(["preview", str(bundle.root), str(pictures / "1.png"), "--epsilon", "32", "-o", str(drawn)]) == 0
    with Image.open(drawn) as image:
        assert image.height > image.width  # the input, and features and answer of the cut


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"kind": "boxes"}, "valid kinds: detections, landmarks, map, vector"),
        ({"layout": "ssd"}, "it has no kind; valid kinds: detections"),
        (
            {"kind": "map", "axes": 3},
            "unknown field `axes`; valid keys: kind, output, axis, scores (logits, ",
        ),
        ({"kind": "detections", "layout": "yolo"}, "layout (postprocess, ssd, yolov5, yolov8, rows)"),
        ({"kind": "detections", "threshold": 2}, "threshold"),
        ({"kind": "detections", "most": 1000}, "most"),
        ({"kind": "detections"}, "show no layout of a detector"),
        ({"kind": "detections", "layout": "ssd"}, 'declare "anchors" as a file, or as {"strides"'),
        ({"kind": "detections", "layout": "ssd", "anchors": "none.npz"}, "none.npz: no such file of anchors"),
        (
            {"kind": "detections", "layout": "ssd", "anchors": {"strides": [16], "sides": [[[0.3, 0.3]]]}},
            "36 anchors for 144 boxes (output 0 is [1, 144, 4])",
        ),
        ({"kind": "landmarks", "output": 5}, "reads output 5"),
        ({"kind": "vector", "output": 2}, "the model has outputs 0 [1, 144, 4], 1 [1, 144, 3]"),
        ({"kind": "map"}, 'declare "axis", along which'),
        ([{"name": "boxes"}], "valid keys: name, shape, meaning, weight"),
    ],
)
def test_a_declaration_that_is_wrong_is_one_line_with_what_is_right(prepare, answer, says):
    code, _, said = prepare(SHAPES / "detector.tflite", *INPUT, "--cuts", "at:5", answer=answer)
    assert code in (65, 66)
    assert says in said
    assert said.count("split-model: error:") == 1
    assert "Traceback" not in said


def test_a_kind_that_there_is_not(prepare):
    code, _, said = prepare(SHAPES / "detector.tflite", "--answer", "boxes")
    assert code == 66
    assert "--answer takes classes, detections, landmarks, map, vector, or a JSON file" in said


def test_labels_of_another_number_of_classes(prepare, tmp_path):
    (tmp_path / "four.txt").write_text("a\nb\nc\nd\n")
    answer = json.loads((SHAPES / "detections.json").read_text()) | {"labels": "four.txt"}
    code, _, said = prepare(SHAPES / "detector.tflite", *INPUT, "--cuts", "at:5", answer=answer)
    assert code == 65
    assert "4 labels, the model has 3 classes" in said


@pytest.mark.parametrize(
    ("shape", "named", "layout"),
    [([1, 7, 144], 3, "yolov8"), ([1, 144, 7], 3, "yolov8"), ([1, 144, 8], 3, "yolov5"), ([1, 30, 6], 5, "rows")],
)
def test_the_layout_by_the_shape_of_an_output(prepare, tmp_path, builder, shape, named, layout):
    build = builder()
    given = build.tensor([1, 12, 12, 3], name="x")
    (tmp_path / "labels.txt").write_text("\n".join(f"c{at}" for at in range(named)) + "\n")
    flat = build.op("RESHAPE", [given, build.tensor([2], np.array([1, 432], np.int32), dtype="int32")], [1, 432])
    size = int(np.prod(shape))
    none = build.tensor([size], np.zeros(size, np.float32))
    kernel = build.tensor([size, 432], np.full((size, 432), 1e-4, np.float32))
    sums = build.op("FULLY_CONNECTED", [flat, kernel, none], [1, size])
    wanted = build.tensor([len(shape)], np.array(shape, np.int32), dtype="int32")
    out = build.op("RESHAPE", [sums, wanted], shape)
    (tmp_path / "net.tflite").write_bytes(build.build([given], [out]))
    labels = ["--labels", tmp_path / "labels.txt"]
    code, bundle, said = prepare(tmp_path / "net.tflite", *labels, "--answer", "detections")
    assert code == 0, said
    assert bundle.manifest.reading.layout == layout


def test_landmarks_and_vectors(prepare, tmp_path, builder):
    build = builder()
    given = build.tensor([1, 6], name="x")
    out = build.op("ADD", [given, build.tensor([1, 6], np.zeros((1, 6), np.float32))], [1, 6])
    (tmp_path / "net.tflite").write_bytes(build.build([given], [out]))
    answer = {"kind": "landmarks", "names": ["nose", "chin", "ear"], "unit": "pixels"}
    code, bundle, said = prepare(tmp_path / "net.tflite", answer=answer)
    assert code == 0
    assert "output 0 taken as landmarks: 2 values a point, xy in pixels" in said
    values = np.array([[1, 2, 3, 4, 5, 6]], np.float32)
    found = AnswerReader.of(bundle).fields([values])["landmarks"]
    assert found[1] == {"name": "chin", "x": 3.0, "y": 4.0}
    code, bundle, said = prepare(tmp_path / "net.tflite", "--force", answer={"kind": "vector", "normalise": True})
    assert code == 0
    assert "taken as a vector, divided by its length" in said
    norm = AnswerReader.of(bundle).fields([values])["vector"]["values"]
    assert np.linalg.norm(norm) == pytest.approx(1, abs=1e-5)


def test_a_bundle_of_before_is_read_and_an_odd_reading_refused(prepare, tmp_path):
    """Manifests without a reading are as they were; one with a reading nobody knows is refused with its place."""
    code, bundle, _ = prepare(SHAPES / "segmenter.tflite", "--cuts", "at:4", "--answer", "map")
    assert code == 0
    path = bundle.root / "manifest.json"
    manifest = json.loads(path.read_text())
    for change, says in (({"kind": "cloud"}, "cloud"), ({"axes": 1}, "axes"), ({"axis": 9}, "axis 9")):
        path.write_text(json.dumps(manifest | {"reading": manifest["reading"] | change}))
        with pytest.raises(BadBundleError, match=says):
            Bundle.open(bundle.root)
    both = {"answer": {"output": 0, "k": 1, "labels": None, "scores": "logits"}}
    path.write_text(json.dumps(manifest | both))
    with pytest.raises(BadBundleError):
        Bundle.open(bundle.root)
    del manifest["reading"]
    path.write_text(json.dumps(manifest))
    assert Bundle.open(bundle.root).manifest.reading is None


def test_anchors_of_another_number_are_refused_before_the_first_frame(prepare, tmp_path):
    code, bundle, _ = prepare(SHAPES / "detector.tflite", "--cuts", "at:5", "--answer", SHAPES / "detections.json")
    assert code == 0
    np.savez(bundle.root / "anchors.npz", anchors=np.full((3, 4), 0.5))
    with pytest.raises(BadBundleError, match="3 anchors for 144 boxes"):
        AnswerReader.of(bundle)


def test_a_devices_answers_are_read_with_their_pictures(tmp_path, pictures):
    """Records of boxes and of a large map whose picture lies beside them."""
    box = {"class": 0, "label": LABELS[0], "score": 0.9, "box": [10, 10, 50, 50]}
    frame = {"kind": "frame", "index": 0, "name": "0.png", "captured_s": 5.0, "split": 5, "outcome": "offloaded"}
    frame |= {"latency_s": 0.1, "payload_bytes": 10, "uplink_mbit_s": None}
    values = tmp_path / "answers.jsonl.values"
    values.mkdir()
    shutil.copyfile(pictures / "0.png", values / "m.png")
    found_map = {"height": 1, "width": 1, "box": [0, 0, 1, 1], "classes": [], "file": "m.png"}
    records = [
        frame | {"picture": [96, 96], "detections": [box]},
        frame | {"index": 1, "captured_s": 6.0, "picture": [96, 96], "map": found_map},
        {"kind": "decision", "at_s": 6.0, "from": 5, "to": 15, "why": "x"},
    ]
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b"\n".join(map(msgspec.json.encode, records)) + b"\n")
    log = read_device_log(path, pictures)
    first, second = log.frames["device"]
    assert first.found["detections"] == [box]
    assert (first.image, first.at_s, second.at_s) == (str(pictures / "0.png"), 0.0, 1.0)
    assert second.found["map"]["png"] == (pictures / "0.png").read_bytes()
    assert log.decisions[0].to_split == 15

"""Answers of every kind from outputs made by hand."""

from io import BytesIO

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from split_model.answers import anchors
from split_model.answers.lines import compact_fields
from split_model.answers.png import read_png, write_png
from split_model.answers.reader import AnswerReader
from split_model.bundle import FileRef, ImagePreprocess, Manifest, TensorSpec
from split_model.bundle.readings import ClassMap, Detections, Landmarks, Vector
from split_model.bundle.validation import check_manifest
from split_model.errors import BadBundleError, BadInputError
from split_model.features.placement import Placement
from split_model.report.answer_drawing import describe_answer, draw_answer

REF = FileRef(path="anchors.npz", sha256="0" * 64, size_bytes=1)
LETTERBOX = ImagePreprocess(resize=100, crop=(100, 100), fit="letterbox")
YOLO = Detections(layout="yolov8", outputs=(0,), order="xywh", threshold=0.5)


def manifest(reading, *shapes, preprocess=LETTERBOX):
    return Manifest(
        format=1,
        name="made",
        ops=1,
        macs=0,
        model=FileRef(path="model.tflite", sha256="0" * 64, size_bytes=1),
        inputs=(TensorSpec(name="x", shape=(1, 100, 100, 3), dtype="float32"),),
        outputs=tuple(TensorSpec(name=f"o{at}", shape=shape, dtype="float32") for at, shape in enumerate(shapes)),
        cuts=(),
        preprocess=preprocess,
        reading=reading,
    )


def answer(reading, *outputs, labels=(), places=None, placement=None):
    arrays = [np.asarray(output, np.float32) for output in outputs]
    made = manifest(reading, *(array.shape for array in arrays))
    check_manifest("made", made)
    return AnswerReader(made, labels, places).fields(arrays, placement)


def yolo(*rows):
    """A yolov8 output [1, 4 + 2, 8] with these rows and empty ones behind."""
    whole = np.zeros((8, 6), np.float32)
    whole[: len(rows)] = np.reshape(rows, (-1, 6))
    return whole.T[None]


def test_yolov8_in_a_letterbox():
    """A picture of 200 x 100 lies 25 pixels below the top of the input; a pixel of it is two of the picture."""
    made = yolo([0.5, 0.5, 0.2, 0.1, 0.1, 0.9], [0.505, 0.5, 0.2, 0.1, 0.0, 0.8], [0.1, 0.3, 0.1, 0.1, 0.6, 0.0])
    fields = answer(YOLO, made, labels=("cup", "dish"), placement=Placement.of(LETTERBOX, 100, 200))
    assert fields["picture"] == [100, 200]
    assert fields["detections"] == [
        {"class": 1, "label": "dish", "score": 0.9, "box": [80.0, 40.0, 120.0, 60.0]},
        {"class": 0, "label": "cup", "score": 0.6, "box": [10.0, 0.0, 30.0, 20.0]},
    ]


def test_boxes_are_cut_off_at_the_picture_and_those_beside_it_are_gone():
    made = yolo([0.5, 0.27, 0.2, 0.2, 0.9, 0.0], [0.5, 0.1, 0.2, 0.2, 0.8, 0.0])
    fields = answer(YOLO, made, placement=Placement.of(LETTERBOX, 100, 200))
    assert [one["box"] for one in fields["detections"]] == [[80.0, 0.0, 120.0, 24.0]]


def test_without_a_picture_coordinates_are_the_inputs():
    fields = answer(YOLO, yolo([0.5, 0.5, 0.2, 0.1, 0.1, 0.9]))
    assert fields["picture"] == [100, 100]
    assert fields["detections"][0]["box"] == [40.0, 45.0, 60.0, 55.0]


def test_yolov5_multiplies_with_the_score_of_any_object():
    rows = np.zeros((1, 9, 7), np.float32)
    rows[0, 0] = [50, 50, 20, 10, 0.5, 0.2, 0.9]
    rows[0, 1] = [20, 20, 20, 10, 0.9, 0.8, 0.1]
    reading = msgspec.structs.replace(YOLO, layout="yolov5", unit="pixels", threshold=0.4)
    found = answer(reading, rows)["detections"]
    assert [(one["class"], one["score"]) for one in found] == [(0, 0.72), (1, 0.45)]


def test_ssd_offsets_from_anchors():
    """Offsets of a centre are divided by their scale, times the anchor's side; sides are exponentials."""
    places = anchors.grid(100, 100, strides=[50], sides=[[(0.4, 0.2)]])
    assert places.tolist() == [[y, x, 0.4, 0.2] for y in (0.25, 0.75) for x in (0.25, 0.75)]
    boxes = np.zeros((1, 4, 4), np.float32)
    boxes[0, 3] = [1.0, -2.0, 5 * np.log(0.5), 5 * np.log(2.0)]
    logits = np.full((1, 4, 3), -9.0, np.float32)
    logits[0, 3] = [4.0, 0.0, 2.0]  # the ground first
    reading = Detections(
        layout="ssd", outputs=(0, 1), order="yxhw", scores="multilabel-logits", background=True, anchors=REF,
        scales=(10.0, 10.0, 5.0, 5.0), labels=None,
    )  # fmt: skip
    (one,) = answer(reading, boxes, logits, places=places)["detections"]
    assert (one["class"], one["score"]) == (1, 0.8808)
    # centre y 0.75 + 0.1 * 0.4, x 0.75 - 0.2 * 0.2; height 0.2, width 0.4
    assert one["box"] == pytest.approx([51.0, 69.0, 91.0, 89.0])


def test_postprocess_gives_as_many_as_it_counts():
    reading = Detections(layout="postprocess", outputs=(0, 1, 2, 3), order="yxyx", suppress="none", first_label=1)
    boxes = np.array([[[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], [0, 0, 1, 1]]])
    found = answer(reading, boxes, [[0, 1, 1]], [[0.9, 0.8, 0.7]], [2], labels=("???", "cup", "dish"))
    assert [(one["label"], one["box"]) for one in found["detections"]] == [
        ("cup", [20.0, 10.0, 40.0, 30.0]),
        ("dish", [0.0, 0.0, 100.0, 100.0]),
    ]


@pytest.mark.parametrize("count", [np.nan, np.inf, -3.0, 1e9])
def test_a_count_that_is_none_gives_no_more_than_there_are(count):
    reading = Detections(layout="postprocess", outputs=(0, 1, 2, 3), order="yxyx", suppress="none")
    found = answer(reading, [[[0, 0, 1, 1]]], [[0]], [[0.9]], [count])
    assert len(found["detections"]) <= 1


def test_rows_of_one_class_and_of_several():
    reading = Detections(layout="rows", outputs=(0,), order="xyxy", unit="pixels")
    assert answer(reading, [[1, 2, 30, 40, 0.9]])["detections"][0]["class"] == 0
    assert answer(reading, [[1, 2, 30, 40, 0.9, 7]])["detections"][0]["class"] == 7


wild = st.sampled_from([0.0, 0.5, 1.0, -1.0, 1e30, -1e30, np.nan, np.inf, -np.inf, 0.25, 0.9])


@given(st.lists(st.tuples(*[wild] * 6), max_size=8), st.integers(1, 3000), st.integers(1, 3000))
def test_boxes_lie_in_the_picture_whatever_the_model_answers(rows, height, width):
    fields = answer(YOLO, yolo(*rows), placement=Placement.of(LETTERBOX, height, width))
    for one in fields["detections"]:
        left, top, right, bottom = one["box"]
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert one["score"] >= 0.5
    msgspec.json.encode(fields)


@given(st.data())
def test_whatever_a_model_answers_can_be_written_sent_and_drawn(data):
    """Every kind and layout, with values that no model should give."""
    kinds = {
        "yolov5": (msgspec.structs.replace(YOLO, layout="yolov5", scores="multilabel-logits"), [(1, 6, 7)]),
        "ssd": (msgspec.structs.replace(YOLO, layout="ssd", outputs=(0, 1), scores="logits", anchors=REF),
                [(1, 4, 4), (1, 4, 3)]),
        "postprocess": (msgspec.structs.replace(YOLO, layout="postprocess", outputs=(0, 1, 2, 3)),
                        [(1, 4, 4), (1, 4), (1, 4), (1,)]),
        "rows": (msgspec.structs.replace(YOLO, layout="rows"), [(4, 6)]),
        "landmarks": (Landmarks(output=0, values=3, score=2, scores="multilabel-logits"), [(1, 12)]),
        "map": (ClassMap(output=0, axis=3), [(1, 3, 4, 3)]),
        "mask": (ClassMap(output=0, axis=3), [(1, 3, 4, 1)]),
        "numbers": (ClassMap(output=0, axis=None), [(1, 3, 4)]),
        "vector": (Vector(output=0, normalise=True), [(1, 6)]),
    }  # fmt: skip
    reading, shapes = data.draw(st.sampled_from(list(kinds.values())))
    outputs = [
        np.reshape(data.draw(st.lists(wild, min_size=size, max_size=size)), shape)
        for shape in shapes
        for size in [int(np.prod(shape))]
    ]
    with np.errstate(all="raise"):
        fields = answer(reading, *outputs, places=anchors.grid(100, 100, strides=[50], sides=[[(0.4, 0.2)]]))
    written = msgspec.json.decode(msgspec.json.encode(fields))
    letter, told = compact_fields(fields)
    assert letter in "DLMV"
    assert len(",".join(told)) < 480
    draw_answer(Image.new("RGB", (20, 20)), written)
    describe_answer(written)


def test_landmarks():
    reading = Landmarks(output=0, values=3, order="yx", unit="fraction", score=2, names=("nose", "chin"))
    fields = answer(reading, [[[[0.5, 0.25, 0.9], [0.75, 1.0, 0.1]]]], placement=Placement.of(LETTERBOX, 100, 200))
    assert fields["landmarks"] == [
        {"name": "nose", "x": 50.0, "y": 50.0, "score": 0.9},
        {"name": "chin", "x": 200.0, "y": 100.0, "score": 0.1},
    ]


@pytest.mark.parametrize("axis", [3, -1, 1])
def test_a_map_and_its_classes(axis):
    """Four rows, of which the first and the last show the border of the letterbox."""
    codes = np.array([[2, 2, 2, 2], [0, 0, 1, 1], [0, 0, 0, 1], [2, 2, 2, 2]])
    values = np.moveaxis(np.eye(3)[codes], -1, axis % 4 - 1)[None]
    place = Placement.of(LETTERBOX, 100, 200)
    reading = ClassMap(output=0, axis=axis)
    found = answer(reading, values, labels=("ground", "leaf", "sky"), placement=place)["map"]
    assert (found["height"], found["width"]) == (4, 4)
    assert found["box"] == [0.0, -50.0, 200.0, 150.0]
    assert found["classes"] == [
        {"class": 0, "label": "ground", "share": 0.625},
        {"class": 1, "label": "leaf", "share": 0.375},
    ]
    assert read_png(found["png"]).tolist() == codes.tolist()


def test_a_border_beside_the_picture_counts_for_no_class():
    """A tall picture fills the middle half of the columns."""
    codes = np.array([[2, 0, 0, 2]] * 4)
    place = Placement.of(LETTERBOX, 200, 100)
    found = answer(ClassMap(output=0, axis=3), np.eye(3)[codes][None], placement=place)["map"]
    assert [(one["class"], one["share"]) for one in found["classes"]] == [(0, 1.0)]
    assert found["box"] == [-50.0, 0.0, 150.0, 200.0]


def test_a_mask_of_one_value_and_a_map_of_numbers():
    mask = answer(ClassMap(output=0, axis=3), np.array([[1.0, -1.0], [0.0, -9.0]]).reshape(1, 2, 2, 1))["map"]
    assert read_png(mask["png"]).tolist() == [[1, 0], [1, 0]]
    numbers = answer(ClassMap(output=0, axis=None), np.array([[[300, 0], [1, 2]]]))["map"]
    assert read_png(numbers["png"]).tolist() == [[300, 0], [1, 2]]


@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([2, 256, 257, 65536]), st.integers(0, 99))
def test_a_map_as_png_comes_back(height, width, classes, seed):
    codes = np.random.default_rng(seed).integers(0, classes, (height, width))
    data = write_png(codes)
    assert np.array_equal(read_png(data), codes)
    assert np.array_equal(np.asarray(Image.open(BytesIO(data))), codes)


@pytest.mark.parametrize("damage", [b"", b"PNG", write_png(np.zeros((2, 2)).astype(int))[:-30]])
def test_other_bytes_are_no_map(damage):
    with pytest.raises(BadInputError, match="not a map"):
        read_png(damage)


def test_a_vector():
    assert answer(Vector(output=0), [[3.0, 4.0]]) == {"vector": {"size": 2, "values": [3.0, 4.0]}}
    assert answer(Vector(output=0, normalise=True), [[3.0, 4.0]])["vector"]["values"] == [0.6, 0.8]
    assert answer(Vector(output=0, normalise=True), [[0.0, 0.0]])["vector"]["values"] == [0.0, 0.0]
    assert answer(Vector(output=0), np.zeros((1, 5000))) == {"vector": {"size": 5000}}


@pytest.mark.parametrize(
    ("reading", "shapes", "says"),
    [
        (YOLO, [(1, 100, 3)], "layout 'yolov8': an output is"),
        (msgspec.structs.replace(YOLO, outputs=(1,)), [(1, 6, 8)], "reads output 1, the model has outputs 0 to 0"),
        (msgspec.structs.replace(YOLO, outputs=(0, 0)), [(1, 6, 8)], "takes 1 outputs, not 2"),
        (msgspec.structs.replace(YOLO, threshold=2.0), [(1, 6, 8)], "must lie in 0..1"),
        (msgspec.structs.replace(YOLO, most=1000), [(1, 6, 8)], "must lie in 1..100"),
        (msgspec.structs.replace(YOLO, layout="ssd", outputs=(0, 0)), [(1, 6, 4)], "needs anchors"),
        (Landmarks(output=0, values=3), [(1, 8)], "no points of 3 values"),
        (Landmarks(output=0, values=2, names=("a",)), [(1, 8)], "1 names for 4 points"),
        (Landmarks(output=0, values=2), [(1, 2000)], "1000 points, over 600"),
        (ClassMap(output=0, axis=7), [(1, 8, 8, 3)], "axis 7"),
        (ClassMap(output=0, axis=None), [(1, 8, 8, 3)], "not a map of height and width"),
    ],
)
def test_a_manifest_whose_outputs_cannot_be_read_so_is_refused(reading, shapes, says):
    with pytest.raises(BadBundleError, match=says):
        check_manifest("m", manifest(reading, *shapes))

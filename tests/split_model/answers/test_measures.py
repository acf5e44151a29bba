"""How near answers are, by hand."""

import numpy as np
import pytest

from split_model.answers.detections import Found
from split_model.answers.landmarks import Points
from split_model.answers.measures import Figures, agreement, measure_of
from split_model.bundle import FileRef, Manifest, TensorSpec
from split_model.bundle.readings import ClassMap, Detections, Landmarks, Vector


def manifest(reading):
    spec = TensorSpec(name="x", shape=(1, 100, 100, 3), dtype="float32")
    model = FileRef(path="model.tflite", sha256="0" * 64, size_bytes=1)
    return Manifest(
        format=1, name="m", ops=1, macs=0, model=model, inputs=(spec,), outputs=(spec,), cuts=(), reading=reading
    )


BOXES = manifest(Detections(layout="rows", outputs=(0,), order="xyxy"))


def found(*rows):
    """Boxes of 10 x 10 at a left end, with a score and a class."""
    boxes = np.array([(left, 0, left + 10, 10) for left, _, _ in rows], float).reshape(-1, 4)
    return Found(boxes, np.array([r[1] for r in rows], float), np.array([r[2] for r in rows], np.int64))


def test_boxes_that_match():
    truth = found((0, 0.9, 0), (50, 0.8, 1))
    assert agreement(truth, truth, BOXES) == 1
    assert agreement(found(), found(), BOXES) == 1
    assert agreement(found(), truth, BOXES) == 0
    assert agreement(found((0, 0.9, 1)), truth, BOXES) == 0  # another class
    assert agreement(found((2, 0.9, 0), (80, 0.5, 0)), truth, BOXES) == 0.5  # 1 of 2 and 1 of 2
    assert agreement(found((0, 0.9, 0), (1, 0.8, 0)), found((0, 0.9, 0)), BOXES) == pytest.approx(2 / 3)


def test_average_precision_by_hand():
    """Class 0: right, wrong, right of two: precision 1 to a recall of a half, 2/3 to 1. Class 1: half is found."""
    figures = Figures(BOXES, "mAP50")
    figures.add([found((0, 0.9, 0), (80, 0.8, 0), (20, 0.7, 1))], found((0, 1, 0), (20, 1, 1)))
    figures.add([found((0, 0.6, 0))], found((0, 1, 0), (40, 1, 1)))
    value, low, high, samples = figures.mean()
    assert value == pytest.approx((0.5 + 0.5 * 2 / 3 + 0.5) / 2)
    assert low <= value <= high
    assert samples == 2


def test_a_truth_without_boxes_wants_none():
    for found_one, expected in ((found(), 1.0), (found((0, 0.9, 0)), 0.0)):
        figures = Figures(BOXES, "mAP50")
        figures.add([found_one], found())
        assert figures.mean()[0] == expected


def test_landmarks_in_pixels():
    made = manifest(Landmarks(output=0, values=2))
    truth = Points(np.array([[0.0, 0], [10, 0]]), None)
    moved = Points(np.array([[3.0, 4], [10, 6]]), None)  # by 5 and by 6 of 100
    assert agreement(moved, truth, made) == 0.5
    figures = Figures(made, "pixels")
    figures.add([moved, truth], truth)
    assert figures.mean()[0] == 5.5 / 2


def test_maps_by_the_classes_of_the_truth():
    made = manifest(ClassMap(output=0, axis=None))
    truth = np.array([[0, 0], [1, 1]], np.uint16)
    assert agreement(truth, truth, made) == 1
    assert agreement(np.array([[0, 2], [1, 1]], np.uint16), truth, made) == 0.75
    assert agreement(np.zeros((2, 2), np.uint16), truth, made) == 0.25


def test_vectors():
    made = manifest(Vector(output=0))
    assert agreement(np.array([2.0, 0.0]), np.array([1.0, 0.0]), made) == 1
    assert agreement(np.array([-1.0, 0.0]), np.array([1.0, 0.0]), made) == 0
    figures = Figures(made, "cosine")
    figures.add([np.array([-1.0, 0.0])], np.array([1.0, 0.0]))
    assert figures.mean()[0] == -1


@pytest.mark.parametrize(
    ("reading", "name"),
    [(BOXES.reading, "mAP50"), (Landmarks(output=0, values=2), "pixels"), (ClassMap(output=0, axis=1), "IoU"),
     (Vector(output=0), "cosine"), (None, None)],
)  # fmt: skip
def test_the_measure_of_each_kind(reading, name):
    assert measure_of(manifest(reading)) == name

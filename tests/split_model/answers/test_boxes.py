"""Overlap and suppression, by hand and in general."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from split_model.answers.boxes import corners, overlap, suppressed


def test_overlap_by_hand():
    """10 x 10 beside: itself, one shifted by half (50 of 150), one that touches, one inside (25 of 100), a line."""
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [0, 0, 5, 5], [2, 2, 2, 8]], float)
    assert overlap(np.array([0.0, 0, 10, 10]), others).tolist() == pytest.approx([1, 1 / 3, 0, 0.25, 0])
    assert overlap(np.zeros(4), np.zeros((1, 4))).tolist() == [0]


def test_suppression_by_hand():
    """The second overlaps the best by 9/11, the third by 1/3, the fourth is of another class."""
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [5, 0, 15, 10], [0, 0, 10, 10]], float)
    scores, classes = np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 0, 0, 1])
    assert suppressed(boxes, scores, classes, iou=0.5, most=9).tolist() == [0, 2, 3]
    assert suppressed(boxes, scores, np.zeros(4, np.int64), iou=0.5, most=9).tolist() == [0, 2]
    assert suppressed(boxes, scores, classes, iou=0.3, most=9).tolist() == [0, 3]
    assert suppressed(boxes, scores, classes, iou=0.5, most=2).tolist() == [0, 2]
    assert suppressed(boxes, np.full(4, 0.5), classes, iou=0.5, most=9).tolist() == [0, 2, 3]


@pytest.mark.parametrize(
    ("order", "values"),
    [("xyxy", [1, 2, 5, 8]), ("yxyx", [2, 1, 8, 5]), ("xywh", [3, 5, 4, 6]), ("yxhw", [5, 3, 6, 4])],
)
def test_orders_of_a_box(order, values):
    assert corners(np.array([values], float), order).tolist() == [[1, 2, 5, 8]]


def test_corners_that_are_swapped_are_put_in_order():
    assert corners(np.array([[5.0, 8, 1, 2]]), "xyxy").tolist() == [[1, 2, 5, 8]]


coordinate = st.floats(-50, 150, width=32)
many = st.lists(
    st.tuples(coordinate, coordinate, coordinate, coordinate, st.floats(0, 1, width=32), st.integers(0, 2)),
    max_size=40,
)


@given(many, st.floats(0.0, 1.0), st.integers(1, 50))
def test_what_is_kept(rows, iou, most):
    """Kept boxes do not overlap, what is gone is overlapped by a better one, and once more changes nothing."""
    boxes = corners(np.array([row[:4] for row in rows], float).reshape(-1, 4), "xyxy")
    scores, classes = np.array([row[4] for row in rows], float), np.array([row[5] for row in rows], np.int64)
    kept = suppressed(boxes, scores, classes, iou=iou, most=most)
    assert len(set(kept.tolist())) == len(kept) <= most
    assert np.all(np.diff(scores[kept]) <= 0)
    for place, at in enumerate(kept):
        later = kept[place + 1 :]
        rivals = later[classes[later] == classes[at]]
        assert np.all(overlap(boxes[at], boxes[rivals]) <= iou)
    if len(kept) < most:
        for at in set(range(len(rows))) - set(kept.tolist()):
            better = kept[(classes[kept] == classes[at]) & (scores[kept] >= scores[at])]
            assert np.any(overlap(boxes[at], boxes[better]) > iou)
    again = suppressed(boxes[kept], scores[kept], classes[kept], iou=iou, most=most)
    assert again.tolist() == list(range(len(kept)))

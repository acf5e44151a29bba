"""Operations on boxes: overlap and suppression. A box is x0, y0, x1, y1 with x0 <= x1 and y0 <= y1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def corners(boxes: Floats, order: str) -> Floats:
    """Convert boxes [n, 4] in any order of values (see `Detections`) to x0, y0, x1, y1."""
    if order in ("yxyx", "yxhw"):
        boxes = boxes[:, [1, 0, 3, 2]]
    if order in ("yxhw", "xywh"):
        half = boxes[:, 2:] / 2
        boxes = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
    return np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)


def overlap(one: Floats, others: Floats) -> Floats:
    """Intersection over union of one box [4] with each of others [n, 4]; 0 for two boxes without an area."""
    low, high = np.maximum(one[:2], others[:, :2]), np.minimum(one[2:], others[:, 2:])
    shared = np.prod(np.maximum(high - low, 0.0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
    union = float(np.prod(one[2:] - one[:2])) + areas - shared
    found: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return found


def suppressed(boxes: Floats, scores: Floats, groups: Integers, *, iou: float, most: int) -> Integers:
    """Greedy non-maximum suppression.

    Args:
        boxes: [n, 4].
        scores: [n]; equal ones keep their order.
        groups: [n]; only boxes of the same group suppress each other.
        iou: Boxes that overlap a better one by more than this are removed.
        most: Maximum number of boxes that are kept.

    Returns:
        Positions of the boxes that are kept, best first.

    """
    left = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while left.size and len(kept) < most:
        best, left = int(left[0]), left[1:]
        kept.append(best)
        rivals = groups[left] == groups[best]
        left = left[~rivals | (overlap(boxes[best], boxes[left]) <= iou)]
    return np.array(kept, np.int64)

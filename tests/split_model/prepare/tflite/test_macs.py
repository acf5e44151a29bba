"""MACs by hand."""

from __future__ import annotations

import pytest

from split_model.prepare.tflite.graph import Graph, Op, Tensor
from split_model.prepare.tflite.macs import op_macs


def macs(name, inputs, out):
    tensors = tuple(
        Tensor(index=index, name=str(index), shape=shape, dtype="float32", constant=False)
        for index, shape in enumerate([*inputs, out])
    )
    op = Op(
        index=0,
        name=name,
        inputs=tuple(range(len(inputs))),
        outputs=(len(inputs),),
        constant_only=False,
        needed=True,
    )
    return op_macs(Graph(source="", tensors=tensors, ops=(op,), inputs=(), outputs=()), op)


@pytest.mark.parametrize(
    ("name", "inputs", "out", "expected"),
    [
        ("CONV_2D", [(1, 8, 8, 4), (16, 3, 3, 4), (16,)], (1, 4, 4, 16), 4 * 4 * 16 * 3 * 3 * 4),
        ("CONV_2D", [(1, 8, 8, 4), (16, 3, 3, 2), (16,)], (1, 8, 8, 16), 8 * 8 * 16 * 3 * 3 * 2),  # two groups
        ("DEPTHWISE_CONV_2D", [(1, 8, 8, 4), (1, 5, 5, 4), (4,)], (1, 8, 8, 4), 8 * 8 * 4 * 25),
        ("TRANSPOSE_CONV", [(4,), (6, 2, 2, 3), (1, 4, 4, 3)], (1, 8, 8, 6), 4 * 4 * 3 * 2 * 2 * 6),
        ("FULLY_CONNECTED", [(2, 10), (5, 10), (5,)], (2, 5), 2 * 5 * 10),
        ("BATCH_MATMUL", [(3, 4, 5), (3, 5, 6)], (3, 4, 6), 3 * 4 * 6 * 5),
        ("BATCH_MATMUL", [(3, 5, 4), (3, 5, 6)], (3, 4, 6), 3 * 4 * 6 * 5),  # adj_x
        ("ADD", [(1, 8), (1, 8)], (1, 8), 0),
        ("CUSTOM:Convolution", [(1, 8), (1, 8)], (1, 8), 0),
        ("CONV_2D", [(1, 8, 8, 4)], (1, 8, 8, 4), 0),  # damaged: no weights
    ],
)
def test_counts(name, inputs, out, expected):
    assert macs(name, inputs, out) == expected

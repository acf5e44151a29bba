"""Multiply-accumulates of one op, from shapes alone.

Counted: CONV_2D, DEPTHWISE_CONV_2D, TRANSPOSE_CONV, FULLY_CONNECTED, BATCH_MATMUL. Every other op,
custom ops included, counts 0: MACs are a share of the work, not a prediction of milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from split_model.prepare.tflite.graph import Graph, Op

Shape = tuple[int, ...]


def op_macs(graph: Graph, op: Op) -> int:
    """MACs of one op at the stored shapes; 0 if a damaged op lacks inputs or ranks."""
    count = _COUNTS.get(op.name)
    if count is None or not op.outputs:
        return 0
    shapes = [graph.tensors[index].shape for index in op.inputs]
    try:
        return count(shapes, graph.tensors[op.outputs[0]].shape)
    except IndexError:
        return 0


def _conv(inputs: list[Shape], out: Shape) -> int:
    """Weights [out, kh, kw, inputs of one group]."""
    return math.prod(out) * math.prod(inputs[1][1:])


def _depthwise(inputs: list[Shape], out: Shape) -> int:
    """Weights [1, kh, kw, out]."""
    return math.prod(out) * math.prod(inputs[1][1:3])


def _transpose_conv(inputs: list[Shape], _out: Shape) -> int:
    """Inputs are the output's shape, weights [out, kh, kw, in], the activation."""
    return math.prod(inputs[2]) * math.prod(inputs[1][:3])


def _fully_connected(inputs: list[Shape], out: Shape) -> int:
    """Weights [units, depth]."""
    return math.prod(out) * inputs[1][-1]


def _batch_matmul(inputs: list[Shape], out: Shape) -> int:
    """[.., M, K] x [.., K, N]; with ``adj_x`` the left one is stored as [.., K, M]."""
    left = inputs[0]
    return math.prod(out) * (left[-1] if left[-2] == out[-2] else left[-2])


_COUNTS: dict[str, Callable[[list[Shape], Shape], int]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transpose_conv,
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _batch_matmul,
}


def total_macs(graph: Graph) -> int:
    """MACs of every op that cuts divide between head and tail (constant-only and unneeded ops count 0)."""
    return sum(op_macs(graph, op) for op in graph.ops if op.counts)

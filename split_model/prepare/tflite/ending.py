"""What a model's graph does last to an output: whether its values are probabilities already.

Ops that only move values, or store them otherwise, are looked through: RESHAPE, DEQUANTIZE and their like.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from split_model.prepare.tflite.graph import Graph, Op

#: Ops whose output holds the values of their first input.
_THROUGH = frozenset(
    (
        "RESHAPE",
        "SQUEEZE",
        "EXPAND_DIMS",
        "DEQUANTIZE",
        "QUANTIZE",
        "CAST",
        "TRANSPOSE",
        "BROADCAST_TO",
        "STABLEHLO_RESHAPE",
        "STABLEHLO_TRANSPOSE",
        "STABLEHLO_CONVERT",
    )
)
_SIGMOIDS = frozenset(("LOGISTIC", "STABLEHLO_LOGISTIC"))


@dataclass(frozen=True, slots=True)
class Ending:
    """How an output ends: after a softmax over all its values, a sigmoid of each, or neither (``plain``).

    ``op``: the op that makes it so. ``step``: the largest step of the grids that the values are stored on.
    """

    kind: Literal["softmax", "sigmoid", "plain"]
    op: str = ""
    step: float = 0.0


def ending_of(graph: Graph, output: int) -> Ending:
    """How the output of a graph ends; ``output`` is its position among the outputs."""
    producers = graph.producers()
    tensor = graph.outputs[output]
    size = graph.tensors[tensor].size
    step = graph.tensors[tensor].scale
    while (op := producers.get(tensor)) is not None and op.name in _THROUGH and op.inputs:
        if graph.tensors[op.inputs[0]].size != size:
            return Ending("plain")
        tensor = op.inputs[0]
        step = max(step, graph.tensors[tensor].scale)
    if op is None:
        return Ending("plain")
    if op.name in _SIGMOIDS:
        return Ending("sigmoid", op.name, step)
    spread_over = graph.tensors[op.inputs[0]].shape[-1:] if op.inputs else ()
    if op.name == "SOFTMAX" and spread_over == (size,):
        return Ending("softmax", op.name, step)
    if op.name == "DIV" and _is_written_out(op, producers, size, graph):
        return Ending("softmax", "EXP, SUM, DIV", step)
    return Ending("plain")


def _is_written_out(division: Op, producers: dict[int, Op], size: int, graph: Graph) -> bool:
    """Whether a division is a softmax in three ops: powers over the sum of the same powers."""
    if len(division.inputs) != 2:
        return False
    powers, total = (producers.get(tensor) for tensor in division.inputs)
    return (
        powers is not None
        and total is not None
        and powers.name == "EXP"
        and total.name == "SUM"
        and total.inputs[:1] == powers.outputs[:1]
        and graph.tensors[total.outputs[0]].size == 1
        and graph.tensors[powers.outputs[0]].size == size
    )

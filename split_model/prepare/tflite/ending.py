"""Finds whether an output's values are probabilities, by the last ops of the graph.

Ops that only move values, or change their storage, such as RESHAPE and DEQUANTIZE, are skipped. After ops that
select values, join several heads, or bound values, probabilities are still probabilities, but may no longer add up
to one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from split_model.prepare.tflite.graph import Graph, Op

#: Ops whose output has the values of their first input.
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
#: Ops whose output has some of the values of one input, in any order.
_PARTS = frozenset(
    (
        "SLICE",
        "STRIDED_SLICE",
        "GATHER",
        "GATHER_ND",
        "SPLIT",
        "SPLIT_V",
        "UNPACK",
        "REVERSE_V2",
        "TOPK_V2",
        "STABLEHLO_SLICE",
    )
)
#: Ops that keep values within bounds.
_BOUNDS = frozenset(("MINIMUM", "MAXIMUM"))
#: Ops whose output has the values of all their inputs.
_JOINS = frozenset(("CONCATENATION", "PACK"))
#: Ops of which every output has such values.
_SEVERAL = frozenset(("SPLIT", "SPLIT_V", "UNPACK"))
#: Maximum number of such ops in sequence.
_DEEPEST = 32
_SIGMOIDS = frozenset(("LOGISTIC", "STABLEHLO_LOGISTIC"))


@dataclass(frozen=True, slots=True)
class Ending:
    """The ending of an output: a softmax over all its values, separate probabilities, or neither.

    ``sigmoid``: a sigmoid of each value, or a part of a softmax, or several heads of either. ``op``: the op that
    makes it so. ``step``: the largest step of the grids that the values are stored on.
    """

    kind: Literal["softmax", "sigmoid", "plain"]
    op: str = ""
    step: float = 0.0


_PLAIN = Ending("plain")


def ending_of(graph: Graph, output: int) -> Ending:
    """Find the ending of an output of a graph; ``output``: its position."""
    tensor = graph.outputs[output]
    return _Reader(graph).ending(tensor, graph.tensors[tensor].scale)


class _Reader:
    """Follows the values of a tensor to the op that made them."""

    def __init__(self, graph: Graph) -> None:
        self._graph, self._producers = graph, graph.producers()
        #: Each op is read once, however many ways lead to it.
        self._known: dict[int, Ending] = {}
        self._deep = 0

    def ending(self, tensor: int, step: float) -> Ending:
        """The ending of one tensor; ``step``: of the grids after it."""
        graph = self._graph
        size = graph.tensors[tensor].size
        while (op := self._producers.get(tensor)) is not None and op.name in _THROUGH and op.inputs:
            if graph.tensors[op.inputs[0]].size != size:
                return _PLAIN
            tensor = op.inputs[0]
            step = max(step, graph.tensors[tensor].scale)
        found = _PLAIN if op is None or not op.inputs else self._made_by(op, tensor, size)
        return found if found.kind == "plain" else replace(found, step=max(step, found.step))

    def _made_by(self, op: Op, tensor: int, size: int) -> Ending:
        """The ending of a tensor by the op that makes, joins or selects its values."""
        if op.name in _SIGMOIDS:
            return Ending("sigmoid", op.name)
        if op.name == "SOFTMAX":
            whole = self._graph.tensors[op.inputs[0]].shape[-1:] == (size,)
            return Ending("softmax", op.name) if whole else Ending("sigmoid", "SOFTMAX in parts")
        if op.name == "DIV" and self._is_written_out(op, size):
            return Ending("softmax", "EXP, SUM, DIV")
        if op.name not in _PARTS | _JOINS | _BOUNDS or (tensor != op.outputs[0] and op.name not in _SEVERAL):
            return _PLAIN  # the second output of TOPK_V2 has indices
        if tensor not in self._known and self._deep < _DEEPEST:
            self._deep += 1
            self._known[tensor] = self._mixed(op, size)
            self._deep -= 1
        return self._known.get(tensor, _PLAIN)

    def _mixed(self, op: Op, size: int) -> Ending:
        """The ending after an op that selects values, bounds them, or joins several heads."""
        tensors = self._graph.tensors
        sources = [one for one in op.inputs if not tensors[one].constant]
        if op.name in _PARTS:  # others are axes and indices
            sources = sources[:1]
        found = [self.ending(one, tensors[one].scale) for one in sources]
        if not found or any(one.kind == "plain" for one in found):
            return _PLAIN
        step = max(one.step for one in found)
        if len(found) == 1 and tensors[sources[0]].size == size and not op.name.startswith("GATHER"):
            return replace(found[0], step=step)
        names = " and ".join(dict.fromkeys(one.op for one in found))
        return Ending("sigmoid", f"{names} through {op.name}", step)

    def _is_written_out(self, division: Op, size: int) -> bool:
        """Whether a division is a softmax in three ops: powers over the sum of the same powers."""
        graph = self._graph
        if len(division.inputs) != 2:
            return False
        powers, total = (self._producers.get(tensor) for tensor in division.inputs)
        return (
            powers is not None
            and total is not None
            and powers.name == "EXP"
            and total.name == "SUM"
            and total.inputs[:1] == powers.outputs[:1]
            and graph.tensors[total.outputs[0]].size == 1
            and graph.tensors[powers.outputs[0]].size == size
        )

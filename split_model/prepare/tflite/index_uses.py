"""Finds tensors that are used as indices, lengths or sizes instead of features.

For a token id, a row number or a length, near values have no similar meaning: noise changes it to another one, or
to one that does not exist, so that the tail fails. Cuts with such a live tensor cannot be used with a noise
release.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from split_model.bundle.manifest import TensorSpec
from split_model.prepare.tflite.cuts import CutPoint, tensor_spec
from split_model.prepare.tflite.graph import Graph, Op
from split_model.prepare.tflite.open_sizes import SIZES
from split_model.privacy.plan import why_unreleasable

#: Positions of the inputs that are indices, counts or lengths, by op.
_INDICES = {
    "GATHER": (1,), "GATHER_ND": (1,), "EMBEDDING_LOOKUP": (0,), "EMBEDDING_LOOKUP_SPARSE": (0, 1),
    "HASHTABLE_LOOKUP": (0, 1), "ONE_HOT": (0, 1), "SCATTER_ND": (0, 2), "SPARSE_TO_DENSE": (0, 1),
    "SEGMENT_SUM": (1,), "UNSORTED_SEGMENT_SUM": (1, 2), "UNSORTED_SEGMENT_MAX": (1, 2), "REVERSE_SEQUENCE": (1,),
    "UNSORTED_SEGMENT_MIN": (1, 2), "UNSORTED_SEGMENT_PROD": (1, 2), "DYNAMIC_UPDATE_SLICE": (2,), "CUMSUM": (1,),
    "REVERSE_V2": (1,), "STABLEHLO_GATHER": (1,), "STABLEHLO_DYNAMIC_SLICE": (1, 2, 3, 4),
}  # fmt: skip
#: By op: positions of the inputs whose values come out as they are, or moved by a constant.
_MOVED = {
    "RESHAPE": (0,), "CAST": (0,), "SQUEEZE": (0,), "EXPAND_DIMS": (0,), "SLICE": (0,), "STRIDED_SLICE": (0,),
    "SPLIT": (1,), "SPLIT_V": (0,), "TRANSPOSE": (0,), "TILE": (0,), "BROADCAST_TO": (0,), "FLOOR": (0,),
    "ROUND": (0,), "CEIL": (0,), "SELECT": (1, 2), "SELECT_V2": (1, 2), "UNPACK": (0,), "PAD": (0,), "PADV2": (0,),
    "FLOOR_MOD": (0,), "REVERSE_V2": (0,), "UNIQUE": (0,),
}  # fmt: skip
_ALL_MOVED = frozenset(("CONCATENATION", "PACK"))
#: Ops that move a value if one input is constant; with two activations they compute a new one.
_SHIFTING = frozenset(("ADD", "SUB", "MAXIMUM", "MINIMUM"))


def index_uses(graph: Graph) -> dict[int, Op]:
    """Map each tensor to the op that uses it, moved or not, as an index, a length or a size."""
    uses: dict[int, Op] = {}
    for op in reversed(graph.ops):
        if not op.counts:
            continue
        positions = {*_INDICES.get(op.name, ()), *SIZES.get(op.name, ())}
        for at in positions:
            if at < len(op.inputs):
                uses.setdefault(op.inputs[at], op)
        ends = [uses[tensor] for tensor in op.outputs if tensor in uses]
        for tensor in _moved(graph, op) if ends else ():
            uses.setdefault(tensor, ends[0])
    return uses


def _moved(graph: Graph, op: Op) -> Iterator[int]:
    if op.name in _ALL_MOVED:
        yield from op.inputs
    elif op.name in _SHIFTING:
        moved = [tensor for tensor in op.inputs if not graph.tensors[tensor].constant]
        yield from moved if len(moved) == 1 else ()
    else:
        yield from (op.inputs[at] for at in _MOVED.get(op.name, ()) if at < len(op.inputs))


def unreleasable(graph: Graph, cuts: Sequence[CutPoint]) -> dict[int, str]:
    """The reasons why cuts cannot be released with noise, by cut."""
    uses = index_uses(graph)
    found = {}
    for cut in cuts:
        reasons = (_why_not(graph, tensor, uses) for tensor in cut.live)
        reason = next(filter(None, reasons), None)
        if reason is not None:
            found[cut.index] = reason
    return found


def _why_not(graph: Graph, index: int, uses: dict[int, Op]) -> str | None:
    spec: TensorSpec = tensor_spec(graph.tensors[index])
    if index in uses:
        op = uses[index]
        return (
            f"tensor {spec.name!r} ({spec.dtype}) holds indices or sizes for op {op.index} {op.name}, not features"
        )
    return why_unreleasable(spec)

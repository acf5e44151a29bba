"""Which tensors have a size that depends on the data, and how large each can get.

Detectors end in as many rows as there are objects, masks keep as many as fit. Such a tensor has *open axes*. A run
shows some of their lengths, never the longest; that is worked out here, op by op: no box is kept twice, no mask
keeps more than it is given. Where that has no answer the axis has no bound, and an output with such an axis is refused.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from split_model.prepare.tflite.graph import Graph, Op, Tensor
from split_model.prepare.tflite.reading import ModelFile
from split_model.prepare.tflite.sandbox import Seen

#: Length of an axis that nothing bounds.
NO_BOUND = 1 << 62

#: By op: positions of the inputs whose values decide the shape of its output.
SIZES = {
    "RESHAPE": (1,), "SLICE": (1, 2), "STRIDED_SLICE": (1, 2, 3), "TILE": (1,), "FILL": (0,), "RANGE": (0, 1, 2),
    "RESIZE_BILINEAR": (1,), "RESIZE_NEAREST_NEIGHBOR": (1,), "TOPK_V2": (1,), "ONE_HOT": (1,), "PAD": (1,),
    "BROADCAST_TO": (1,), "PADV2": (1,), "MIRROR_PAD": (1,), "SPARSE_TO_DENSE": (1,), "TRANSPOSE_CONV": (0,),
    "EXPAND_DIMS": (1,), "SCATTER_ND": (2,), "NON_MAX_SUPPRESSION_V4": (2,), "NON_MAX_SUPPRESSION_V5": (2,),
    "SPLIT_V": (1,), "TRANSPOSE": (1,), "SPACE_TO_BATCH_ND": (1, 2), "BATCH_TO_SPACE_ND": (1, 2), "SUM": (1,),
    "MEAN": (1,), "REDUCE_MAX": (1,), "REDUCE_MIN": (1,), "REDUCE_PROD": (1,), "REDUCE_ANY": (1,),
    "REDUCE_ALL": (1,), "ARG_MAX": (1,), "ARG_MIN": (1,), "UNSORTED_SEGMENT_SUM": (2,), "UNSORTED_SEGMENT_MAX": (2,),
    "UNSORTED_SEGMENT_MIN": (2,), "UNSORTED_SEGMENT_PROD": (2,), "RFFT2D": (1,), "MATRIX_SET_DIAG": (),
}  # fmt: skip
#: Ops whose outputs have as many rows as the data says, whatever their inputs' shapes.
_FINDING = frozenset(("WHERE", "UNIQUE", "SEGMENT_SUM"))
#: Ops that look at a shape, not at values.
_SHAPES = frozenset(("SHAPE", "RANK"))
_REDUCING = frozenset(
    ("SUM", "MEAN", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "REDUCE_ANY", "REDUCE_ALL", "ARG_MAX", "ARG_MIN")
)
#: Ops whose output has the shape of their inputs, broadcast to each other.
_SAME = frozenset(
    """ABS ADD CAST CEIL COS CUMSUM DEQUANTIZE DIV ELU EQUAL EXP FLOOR FLOOR_DIV FLOOR_MOD GELU GREATER GREATER_EQUAL
    HARD_SWISH L2_NORMALIZATION LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC
    LOG_SOFTMAX MAXIMUM MINIMUM MUL NEG NOT_EQUAL POW PRELU QUANTIZE RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 ROUND RSQRT
    SELECT SELECT_V2 SIGN SIN SOFTMAX SQRT SQUARE SQUARED_DIFFERENCE SUB TANH ZEROS_LIKE REVERSE_V2""".split()
)


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a tensor: its length, or the most it can have where that is ``open``."""

    most: int
    open: bool = False


Extent = tuple[Axis, ...]


def with_open_axes(model: ModelFile, seen: Seen) -> ModelFile:
    """The same model; tensors whose size depends on the data have their ``open_axes``, and their bounds as shapes.

    ``seen``: the shapes that tensors had in several runs. One that differed there is open whatever the rules say.
    An axis without a bound keeps the longest length that was seen, and its tensor is not ``bounded``.
    """
    extents = _Sizes(model, seen).all()
    tensors = tuple(
        _opened(tensor, extents[tensor.index]) if tensor.index in extents else tensor
        for tensor in model.graph.tensors
    )
    return dataclasses.replace(model, graph=dataclasses.replace(model.graph, tensors=tensors))


def _opened(tensor: Tensor, extent: Extent) -> Tensor:
    bounded = all(axis.most < NO_BOUND for axis in extent) and len(extent) == len(tensor.shape)
    return dataclasses.replace(
        tensor,
        shape=tuple(axis.most for axis in extent) if bounded else tensor.shape,
        open_axes=tuple(at for at, axis in enumerate(extent) if axis.open),
        bounded=bounded,
    )


class _Sizes:
    """One pass over the ops of a model."""

    def __init__(self, model: ModelFile, seen: Seen) -> None:
        self._model = model
        self._graph: Graph = model.graph
        self._seen = seen
        self._valued = set(self._graph.inputs)
        self._open: dict[int, Extent] = {}

    def all(self) -> dict[int, Extent]:
        """The extents of all tensors that have an open axis."""
        for op in self._graph.ops:
            if not op.counts:
                continue
            decided = op.name in _FINDING or self.decided(op)
            spread = any(tensor in self._open for tensor in op.inputs)
            if op.name in _SHAPES:
                if spread:
                    self._valued.update(op.outputs)
                continue
            if any(tensor in self._valued for tensor in op.inputs):
                self._valued.update(op.outputs)
            for at, tensor in enumerate(op.outputs):
                extent = self._made(op, at, tensor) if decided or spread else self._fixed(tensor)
                extent = self._as_seen(tensor, extent)
                if any(axis.open for axis in extent):
                    self._open[tensor] = extent
        return self._open

    def _sizes(self, op: Op) -> list[int]:
        """The inputs that decide a shape; ``op.inputs`` lacks absent ones, which come last in all of these ops."""
        return [op.inputs[at] for at in SIZES.get(op.name, ()) if at < len(op.inputs)]

    def decided(self, op: Op) -> bool:
        """Whether values that depend on the data decide a shape."""
        return any(tensor in self._valued for tensor in self._sizes(op))

    def shape(self, op: Op, at: int) -> tuple[int, ...]:
        """The longest shape that an output was seen to have."""
        return self._graph.tensors[op.outputs[at]].shape

    def _fixed(self, tensor: int) -> Extent:
        return tuple(map(Axis, self._graph.tensors[tensor].shape))

    def _of(self, tensor: int) -> Extent:
        return self._open.get(tensor, self._fixed(tensor))

    def _as_seen(self, tensor: int, extent: Extent) -> Extent:
        """An extent that the runs do not contradict."""
        shapes = set(self._seen.get(tensor, ()))
        if any(len(shape) != len(extent) for shape in shapes):
            return tuple(Axis(NO_BOUND, open=True) for _ in extent) or (Axis(NO_BOUND, open=True),)
        lengths = [{shape[at] for shape in shapes} for at in range(len(extent))]
        return tuple(
            Axis(NO_BOUND, open=True)
            if found and (max(found) > axis.most or (len(found) > 1 and not axis.open))
            else axis
            for axis, found in zip(extent, lengths, strict=True)
        )

    def _made(self, op: Op, at: int, tensor: int) -> Extent:
        """What an op makes of open inputs, or by sizes that depend on the data."""
        rank = len(self._graph.tensors[tensor].shape)
        reads = [self._of(one) for one in op.inputs]
        rule = next((rule for names, rule in _RULES if op.name in names), None)
        no_rule = rule is None or (self.decided(op) and op.name not in _BY_SIZE)
        made = None if rule is None or no_rule else rule(self, op, reads, at)
        if made is None or len(made) != rank:
            return tuple(Axis(NO_BOUND, open=True) for _ in range(rank))
        return made

    def option(self, op: Op, name: str, default: Any = None) -> Any:
        """A value of an op's options."""
        return getattr(self._model.ops[op.index].builtinOptions, name, default)

    def constant(self, op: Op, position: int) -> list[int] | None:
        """The values of a constant integer input, None where it is none."""
        if position >= len(op.inputs):
            return None
        tensor = self._graph.tensors[op.inputs[position]]
        if not tensor.constant or tensor.dtype not in ("int32", "int64"):
            return None
        raw = self._model.buffers[self._model.tensors[tensor.index].buffer]
        return [int(value) for value in np.frombuffer(raw.tobytes(), tensor.dtype)]


def _size(extent: Extent) -> Axis:
    """All values of a tensor as one axis."""
    return Axis(min(NO_BOUND, math.prod(axis.most for axis in extent)), any(axis.open for axis in extent))


def _same(_sizes: _Sizes, _op: Op, reads: Sequence[Extent], _at: int) -> Extent:
    rank = max(map(len, reads))
    aligned = [(Axis(1),) * (rank - len(extent)) + extent for extent in reads]
    return tuple(_widest(axes) for axes in zip(*aligned, strict=True))


def _widest(axes: Sequence[Axis]) -> Axis:
    """Of axes that are broadcast to each other: a fixed one over 1 is what all others are."""
    fixed = [axis for axis in axes if not axis.open and axis.most != 1]
    return fixed[0] if fixed else Axis(max(axis.most for axis in axes), any(axis.open for axis in axes))


def _where(_sizes: _Sizes, _op: Op, reads: Sequence[Extent], _at: int) -> Extent:
    return Axis(_size(reads[0]).most, open=True), Axis(len(reads[0]))


def _unique(_sizes: _Sizes, _op: Op, reads: Sequence[Extent], at: int) -> Extent:
    return reads[0] if at else (Axis(_size(reads[0]).most, open=True),)


def _slice(sizes: _Sizes, op: Op, reads: Sequence[Extent], at: int) -> Extent:
    """No axis of a slice is longer than the one that it is taken of."""
    axes, shape, decided = reads[0], sizes.shape(op, at), sizes.decided(op)
    if len(shape) != len(axes) or any(sizes.option(op, name, 0) for name in ("ellipsisMask", "newAxisMask")):
        return (Axis(max(axis.most for axis in axes), open=True),) * len(shape)
    pairs = zip(axes, shape, strict=True)
    return tuple(Axis(axis.most, open=True) if decided or axis.open else Axis(side) for axis, side in pairs)


def _top_k(_sizes: _Sizes, _op: Op, reads: Sequence[Extent], _at: int) -> Extent:
    return *reads[0][:-1], Axis(reads[0][-1].most, open=True)


def _padded(sizes: _Sizes, op: Op, _reads: Sequence[Extent], at: int) -> Extent:
    """As many boxes as were asked for, the rest zeros, however many there are."""
    return tuple(map(Axis, sizes.shape(op, at)))


def _gather(sizes: _Sizes, op: Op, reads: Sequence[Extent], _at: int) -> Extent | None:
    params, indices = reads[:2]
    axis, batch = int(sizes.option(op, "axis", 0) or 0), int(sizes.option(op, "batchDims", 0) or 0)
    axis += len(params) if axis < 0 else 0
    return None if batch < 0 else (*params[:axis], *indices[batch:], *params[axis + 1 :])


def _gather_nd(_sizes: _Sizes, _op: Op, reads: Sequence[Extent], _at: int) -> Extent:
    params, indices = reads
    return *indices[:-1], *params[indices[-1].most :]


def _reshape(sizes: _Sizes, op: Op, reads: Sequence[Extent], at: int) -> Extent | None:
    wanted = sizes.constant(op, 1)
    if wanted is None and len(op.inputs) == 1:
        named = sizes.option(op, "newShape")
        wanted = None if named is None else [int(side) for side in named]
    if wanted is None:  # by a shape that depends on the data
        return (Axis(_size(reads[0]).most, open=True),) if len(sizes.shape(op, at)) == 1 else None
    known = math.prod(side for side in wanted if side >= 0) or 1
    total = _size(reads[0])
    return tuple(Axis(total.most // known, total.open) if side < 0 else Axis(side) for side in wanted)


def _concatenation(sizes: _Sizes, op: Op, reads: Sequence[Extent], _at: int) -> Extent:
    axis = int(sizes.option(op, "axis", 0) or 0) % max(1, len(reads[0]))
    return tuple(
        Axis(min(NO_BOUND, sum(one.most for one in axes)), any(one.open for one in axes))
        if at == axis
        else _widest(axes)
        for at, axes in enumerate(zip(*reads, strict=True))
    )


def _pack(sizes: _Sizes, op: Op, reads: Sequence[Extent], at: int) -> Extent:
    axis = int(sizes.option(op, "axis", 0) or 0) % (len(reads[0]) + 1)
    whole = _same(sizes, op, reads, at)
    return *whole[:axis], Axis(len(reads)), *whole[axis:]


def _dense(sizes: _Sizes, op: Op, reads: Sequence[Extent], _at: int) -> Extent:
    given, weights = reads[:2]
    if sizes.option(op, "keepNumDims", default=False):
        return *given[:-1], weights[0]
    total = _size(given)
    return Axis(total.most // max(1, weights[1].most), total.open), weights[0]


def _reduced(sizes: _Sizes, op: Op, reads: Sequence[Extent], _at: int) -> Extent | None:
    axes = sizes.constant(op, 1)
    if axes is None:
        return None
    gone = {axis % max(1, len(reads[0])) for axis in axes}
    if sizes.option(op, "keepDims", default=False):
        return tuple(Axis(1) if at in gone else axis for at, axis in enumerate(reads[0]))
    return tuple(axis for at, axis in enumerate(reads[0]) if at not in gone)


def _expanded(sizes: _Sizes, op: Op, reads: Sequence[Extent], _at: int) -> Extent | None:
    axes = sizes.constant(op, 1)
    if not axes:
        return None
    axis = axes[0] % (len(reads[0]) + 1)
    return *reads[0][:axis], Axis(1), *reads[0][axis:]


def _squeezed(sizes: _Sizes, op: Op, reads: Sequence[Extent], _at: int) -> Extent | None:
    named = sizes.option(op, "squeezeDims")
    gone = {int(axis) % max(1, len(reads[0])) for axis in ([] if named is None else named)}
    return tuple(axis for at, axis in enumerate(reads[0]) if at not in gone) if gone else None


def _transposed(sizes: _Sizes, op: Op, reads: Sequence[Extent], _at: int) -> Extent | None:
    order = sizes.constant(op, 1)
    return None if order is None else tuple(reads[0][axis] for axis in order)


def _looked_up(_sizes: _Sizes, _op: Op, reads: Sequence[Extent], _at: int) -> Extent:
    return *reads[0], *reads[1][1:]


_Rule = Callable[[_Sizes, Op, Sequence[Extent], int], Extent | None]
_RULES: tuple[tuple[frozenset[str], _Rule], ...] = (
    (_SAME, _same),
    (frozenset(("WHERE",)), _where),
    (frozenset(("UNIQUE",)), _unique),
    (frozenset(("SLICE", "STRIDED_SLICE")), _slice),
    (frozenset(("TOPK_V2",)), _top_k),
    (frozenset(("NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5")), _padded),
    (frozenset(("GATHER",)), _gather),
    (frozenset(("GATHER_ND",)), _gather_nd),
    (frozenset(("EMBEDDING_LOOKUP",)), _looked_up),
    (frozenset(("RESHAPE",)), _reshape),
    (frozenset(("CONCATENATION",)), _concatenation),
    (frozenset(("PACK",)), _pack),
    (frozenset(("FULLY_CONNECTED",)), _dense),
    (_REDUCING, _reduced),
    (frozenset(("EXPAND_DIMS",)), _expanded),
    (frozenset(("SQUEEZE",)), _squeezed),
    (frozenset(("TRANSPOSE",)), _transposed),
)
#: Rules that have a bound although the size depends on the data.
_BY_SIZE = frozenset(("SLICE", "STRIDED_SLICE", "TOPK_V2", "RESHAPE"))

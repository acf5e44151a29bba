"""The rules of `open_sizes` for outputs of each op if sizes depend on the data.

A rule gives the axes of one output from the axes of the inputs, or None if there is no bound.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from split_model.prepare.tflite.graph import Op

#: Length of an unbounded axis.
NO_BOUND = 1 << 62
_REDUCING = frozenset(
    ("SUM", "MEAN", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "REDUCE_ANY", "REDUCE_ALL", "ARG_MAX", "ARG_MIN")
)
#: Ops whose output has the shape of their inputs, broadcast to each other.
_SAME = frozenset((
    "ABS", "ADD", "CAST", "CEIL", "COS", "CUMSUM", "DEQUANTIZE", "DIV", "ELU", "EQUAL", "EXP", "FLOOR",
    "FLOOR_DIV", "FLOOR_MOD", "GELU", "GREATER", "GREATER_EQUAL", "HARD_SWISH", "L2_NORMALIZATION",
    "LEAKY_RELU", "LESS", "LESS_EQUAL", "LOG", "LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR", "LOGISTIC",
    "LOG_SOFTMAX", "MAXIMUM", "MINIMUM", "MUL", "NEG", "NOT_EQUAL", "POW", "PRELU", "QUANTIZE", "RELU", "RELU6",
    "RELU_N1_TO_1", "RELU_0_TO_1", "ROUND", "RSQRT", "SELECT", "SELECT_V2", "SIGN", "SIN", "SOFTMAX", "SQRT",
    "SQUARE", "SQUARED_DIFFERENCE", "SUB", "TANH", "ZEROS_LIKE", "REVERSE_V2",
))  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a tensor: its length, or the maximum if it is ``open``."""

    most: int
    open: bool = False


Extent = tuple[Axis, ...]


class Sizes(Protocol):
    """The model's properties for the rules."""

    def decided(self, op: Op) -> bool:
        """Whether values that depend on the data decide a shape."""
        ...

    def shape(self, op: Op, at: int) -> tuple[int, ...]:
        """The longest shape that an output was seen to have."""
        ...

    def option(self, op: Op, name: str, default: Any = None) -> Any:
        """A value of an op's options."""
        ...

    def constant(self, op: Op, position: int) -> list[int] | None:
        """The values of a constant integer input; None for other inputs."""
        ...


def _size(extent: Extent) -> Axis:
    """All values of a tensor as one axis."""
    return Axis(min(NO_BOUND, math.prod(axis.most for axis in extent)), any(axis.open for axis in extent))


def _same(_sizes: Sizes, _op: Op, reads: Sequence[Extent], _at: int) -> Extent:
    rank = max(map(len, reads))
    aligned = [(Axis(1),) * (rank - len(extent)) + extent for extent in reads]
    return tuple(_widest(axes) for axes in zip(*aligned, strict=True))


def _widest(axes: Sequence[Axis]) -> Axis:
    """The result of broadcasting axes: a fixed one over 1 decides."""
    fixed = [axis for axis in axes if not axis.open and axis.most != 1]
    return fixed[0] if fixed else Axis(max(axis.most for axis in axes), any(axis.open for axis in axes))


def _where(_sizes: Sizes, _op: Op, reads: Sequence[Extent], _at: int) -> Extent:
    return Axis(_size(reads[0]).most, open=True), Axis(len(reads[0]))


def _unique(_sizes: Sizes, _op: Op, reads: Sequence[Extent], at: int) -> Extent:
    return reads[0] if at else (Axis(_size(reads[0]).most, open=True),)


def _slice(sizes: Sizes, op: Op, reads: Sequence[Extent], at: int) -> Extent:
    """The axes of a slice are at most as long as its input's."""
    axes, shape, decided = reads[0], sizes.shape(op, at), sizes.decided(op)
    if len(shape) != len(axes) or any(sizes.option(op, name, 0) for name in ("ellipsisMask", "newAxisMask")):
        return (Axis(max(axis.most for axis in axes), open=True),) * len(shape)
    pairs = zip(axes, shape, strict=True)
    return tuple(Axis(axis.most, open=True) if decided or axis.open else Axis(side) for axis, side in pairs)


def _top_k(_sizes: Sizes, _op: Op, reads: Sequence[Extent], _at: int) -> Extent:
    return *reads[0][:-1], Axis(reads[0][-1].most, open=True)


def _padded(sizes: Sizes, op: Op, _reads: Sequence[Extent], at: int) -> Extent:
    """The fixed number of wanted boxes; missing ones are zeros."""
    return tuple(map(Axis, sizes.shape(op, at)))


def _gather(sizes: Sizes, op: Op, reads: Sequence[Extent], _at: int) -> Extent | None:
    params, indices = reads[:2]
    axis, batch = int(sizes.option(op, "axis", 0) or 0), int(sizes.option(op, "batchDims", 0) or 0)
    axis += len(params) if axis < 0 else 0
    return None if batch < 0 else (*params[:axis], *indices[batch:], *params[axis + 1 :])


def _gather_nd(_sizes: Sizes, _op: Op, reads: Sequence[Extent], _at: int) -> Extent:
    params, indices = reads
    return *indices[:-1], *params[indices[-1].most :]


def _reshape(sizes: Sizes, op: Op, reads: Sequence[Extent], at: int) -> Extent | None:
    wanted = sizes.constant(op, 1)
    if wanted is None and len(op.inputs) == 1:
        named = sizes.option(op, "newShape")
        wanted = None if named is None else [int(side) for side in named]
    if wanted is None:  # by a shape that depends on the data
        return (Axis(_size(reads[0]).most, open=True),) if len(sizes.shape(op, at)) == 1 else None
    known = math.prod(side for side in wanted if side >= 0) or 1
    total = _size(reads[0])
    return tuple(Axis(total.most // known, total.open) if side < 0 else Axis(side) for side in wanted)


def _concatenation(sizes: Sizes, op: Op, reads: Sequence[Extent], _at: int) -> Extent:
    axis = int(sizes.option(op, "axis", 0) or 0) % max(1, len(reads[0]))
    return tuple(
        Axis(min(NO_BOUND, sum(one.most for one in axes)), any(one.open for one in axes))
        if at == axis
        else _widest(axes)
        for at, axes in enumerate(zip(*reads, strict=True))
    )


def _pack(sizes: Sizes, op: Op, reads: Sequence[Extent], at: int) -> Extent:
    axis = int(sizes.option(op, "axis", 0) or 0) % (len(reads[0]) + 1)
    whole = _same(sizes, op, reads, at)
    return *whole[:axis], Axis(len(reads)), *whole[axis:]


def _dense(sizes: Sizes, op: Op, reads: Sequence[Extent], _at: int) -> Extent:
    given, weights = reads[:2]
    if sizes.option(op, "keepNumDims", default=False):
        return *given[:-1], weights[0]
    total = _size(given)
    return Axis(total.most // max(1, weights[1].most), total.open), weights[0]


def _reduced(sizes: Sizes, op: Op, reads: Sequence[Extent], _at: int) -> Extent | None:
    axes = sizes.constant(op, 1)
    if axes is None:
        return None
    gone = {axis % max(1, len(reads[0])) for axis in axes}
    if sizes.option(op, "keepDims", default=False):
        return tuple(Axis(1) if at in gone else axis for at, axis in enumerate(reads[0]))
    return tuple(axis for at, axis in enumerate(reads[0]) if at not in gone)


def _expanded(sizes: Sizes, op: Op, reads: Sequence[Extent], _at: int) -> Extent | None:
    axes = sizes.constant(op, 1)
    if not axes:
        return None
    axis = axes[0] % (len(reads[0]) + 1)
    return *reads[0][:axis], Axis(1), *reads[0][axis:]


def _squeezed(sizes: Sizes, op: Op, reads: Sequence[Extent], _at: int) -> Extent | None:
    named = sizes.option(op, "squeezeDims")
    gone = {int(axis) % max(1, len(reads[0])) for axis in ([] if named is None else named)}
    return tuple(axis for at, axis in enumerate(reads[0]) if at not in gone) if gone else None


def _transposed(sizes: Sizes, op: Op, reads: Sequence[Extent], _at: int) -> Extent | None:
    order = sizes.constant(op, 1)
    return None if order is None else tuple(reads[0][axis] for axis in order)


def _looked_up(_sizes: Sizes, _op: Op, reads: Sequence[Extent], _at: int) -> Extent:
    return *reads[0], *reads[1][1:]


_Rule = Callable[[Sizes, Op, Sequence[Extent], int], Extent | None]
RULES: tuple[tuple[frozenset[str], _Rule], ...] = (
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
#: Rules with a bound although the size depends on the data.
BY_SIZE = frozenset(("SLICE", "STRIDED_SLICE", "TOPK_V2", "RESHAPE"))

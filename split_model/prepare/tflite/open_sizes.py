"""Finds tensors whose size depends on the data, and their maximum sizes.

Detectors end in one row for each object; masks keep the rows that fit. Such a tensor has *open axes*. A run shows
some of their lengths, but not the longest. This module computes the maximum op by op: for example, a selection has
no more boxes, and a mask no more rows, than its input. If no rule applies, the axis has no bound, and `prepare`
refuses such an output.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from split_model.prepare.tflite.graph import Graph, Op, Tensor
from split_model.prepare.tflite.reading import ModelFile
from split_model.prepare.tflite.sandbox import Seen
from split_model.prepare.tflite.size_rules import BY_SIZE, NO_BOUND, RULES, Axis, Extent

#: Positions of the inputs whose values decide the shape of the output, by op.
SIZES = {
    "RESHAPE": (1,), "SLICE": (1, 2), "STRIDED_SLICE": (1, 2, 3), "TILE": (1,), "FILL": (0,), "RANGE": (0, 1, 2),
    "RESIZE_BILINEAR": (1,), "RESIZE_NEAREST_NEIGHBOR": (1,), "TOPK_V2": (1,), "ONE_HOT": (1,), "PAD": (1,),
    "BROADCAST_TO": (1,), "PADV2": (1,), "MIRROR_PAD": (1,), "SPARSE_TO_DENSE": (1,), "TRANSPOSE_CONV": (0,),
    "EXPAND_DIMS": (1,), "SCATTER_ND": (2,), "NON_MAX_SUPPRESSION_V4": (2,), "NON_MAX_SUPPRESSION_V5": (2,),
    "SPLIT_V": (1,), "TRANSPOSE": (1,), "SPACE_TO_BATCH_ND": (1, 2), "BATCH_TO_SPACE_ND": (1, 2), "SUM": (1,),
    "MEAN": (1,), "REDUCE_MAX": (1,), "REDUCE_MIN": (1,), "REDUCE_PROD": (1,), "REDUCE_ANY": (1,),
    "REDUCE_ALL": (1,), "ARG_MAX": (1,), "ARG_MIN": (1,), "UNSORTED_SEGMENT_SUM": (2,),
    "UNSORTED_SEGMENT_MAX": (2,),
    "UNSORTED_SEGMENT_MIN": (2,), "UNSORTED_SEGMENT_PROD": (2,), "RFFT2D": (1,), "MATRIX_SET_DIAG": (),
}  # fmt: skip
#: Ops whose outputs' number of rows depends on the data, not on their inputs' shapes.
_FINDING = frozenset(("WHERE", "UNIQUE", "SEGMENT_SUM"))
#: Ops that use a shape, not values.
_SHAPES = frozenset(("SHAPE", "RANK"))


def with_open_axes(model: ModelFile, seen: Seen) -> ModelFile:
    """Return the model with ``open_axes`` of tensors whose size depends on the data, and bounds as shapes.

    ``seen``: the shapes of tensors in several runs. One that differed there is open in any case. An axis without a
    bound keeps the longest observed length, and its tensor is not ``bounded``.
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
        rule = next((rule for names, rule in RULES if op.name in names), None)
        no_rule = rule is None or (self.decided(op) and op.name not in BY_SIZE)
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

"""A model as an immutable graph, from which cuts, MACs and reports are computed.

This module is independent of the file format. `make_graph` gets values that `split_model.prepare.tflite.reading`
read from a file, and refuses models that cannot be cut, naming the op.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from split_model.errors import BadModelError

#: Ops that run another subgraph.
CONTROL_FLOW = frozenset(
    (
        "IF",
        "WHILE",
        "CALL",
        "STABLEHLO_WHILE",
        "STABLEHLO_CASE",
        "STABLEHLO_COMPOSITE",
        "STABLEHLO_REDUCE",
        "STABLEHLO_REDUCE_WINDOW",
        "STABLEHLO_SCATTER",
        "STABLEHLO_SORT",
        "STABLEHLO_CUSTOM_CALL",
    )
)
#: Ops that keep or read something between two frames.
STATEFUL = frozenset(
    (
        "CALL_ONCE",  # converters put it in front of variables, to initialise them
        "VAR_HANDLE",
        "READ_VARIABLE",
        "ASSIGN_VARIABLE",
        "HASHTABLE",
        "HASHTABLE_FIND",
        "HASHTABLE_IMPORT",
        "HASHTABLE_SIZE",
    )
)
#: Ops that draw random numbers: then head and tail cannot be verified against the whole model.
RANDOM = frozenset(("RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL", "STABLEHLO_RNG_BIT_GENERATOR"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor. ``constant``: its values are stored in the file.

    ``scale`` is 0 if the tensor is not quantised, or has several scales. ``dynamic``: by the file the shape may
    change, so ``shape`` may be a placeholder. ``open_axes``: axes whose length depends on the data; ``shape`` then
    has their maximum or, if the tensor is not ``bounded``, the longest observed length.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool
    quantised: bool = False
    scale: float = 0.0
    zero_point: int = 0
    dynamic: bool = False
    open_axes: tuple[int, ...] = ()
    bounded: bool = True

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One operator; tensor indices without the -1 of absent optional inputs.

    ``constant_only``: computed from constants alone (DEQUANTIZE of fp16 weights, DENSIFY of sparse
    ones), so it follows its consumers to whichever side they are on. ``needed``: a model output
    depends on it; other ops are in no head and in no tail.
    """

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constant_only: bool
    needed: bool

    @property
    def counts(self) -> bool:
        """Whether cuts lie before and after it: it is needed and works on activations."""
        return self.needed and not self.constant_only


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The ops in stored order, which is the order of execution, and their tensors."""

    source: str
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def producers(self) -> dict[int, Op]:
        """Tensor index -> the op that writes it."""
        return {tensor: op for op in self.ops for tensor in op.outputs}

    @property
    def dynamic(self) -> bool:
        """Whether by the file some activation's stored shape may be a placeholder."""
        return any(tensor.dynamic and not tensor.constant for tensor in self.tensors)

    @property
    def unsaid(self) -> bool:
        """Whether some activation's stored shape may be missing: a custom op's output often has no dimensions."""
        return any(not self.tensors[tensor].shape for op in self.ops if op.counts for tensor in op.outputs)


def make_graph(
    *,
    source: str,
    tensors: Sequence[Tensor],
    ops: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> Graph:
    """Check and annotate. ``ops`` are (name, inputs, outputs) in stored order, all indices in range.

    Raises `BadModelError` for control flow, state, random ops, and tensors that are written twice or
    read before they are written.
    """
    for index, (name, _, _) in enumerate(ops):
        _refuse_op(source, index, name)
    if not inputs or not outputs:
        raise BadModelError(
            f"{source}: has {len(inputs)} inputs and {len(outputs)} outputs",
            remedy="convert it with one of each at least",
        )
    derived = _constant_ops(source, tensors, ops, inputs, outputs)
    needed = _needed_ops(ops, outputs)
    return Graph(
        source=source,
        tensors=tuple(tensors),
        ops=tuple(
            Op(
                index=index,
                name=name,
                inputs=reads,
                outputs=writes,
                constant_only=index in derived,
                needed=index in needed,
            )
            for index, (name, reads, writes) in enumerate(ops)
        ),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
    )


def _refuse_op(source: str, index: int, name: str) -> None:
    if name in CONTROL_FLOW:
        raise BadModelError(
            f"{source}: op {index} {name} runs another subgraph, which cannot be cut",
            remedy="convert the model without control flow",
        )
    if name in STATEFUL:
        raise BadModelError(
            f"{source}: op {index} {name} keeps state between frames, which cannot be cut",
            remedy="convert the model with its state as an input and an output",
        )
    if name in RANDOM:
        raise BadModelError(
            f"{source}: op {index} {name} draws random numbers, so no cut can be verified",
            remedy="convert the model without it",
        )


def _constant_ops(
    source: str,
    tensors: Sequence[Tensor],
    ops: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> set[int]:
    """Find constant-only ops; also checks that each tensor is written once and before it is read."""
    # A tensor without elements can be a constant without stored bytes.
    constants = {tensor.index for tensor in tensors if tensor.constant or tensor.size == 0} - set(inputs)
    written = set(inputs)
    if len(written) != len(inputs) or any(tensors[index].constant for index in inputs):
        raise BadModelError(
            f"{source}: lists an input twice or a constant as an input", remedy="convert the model again"
        )
    derived: set[int] = set()
    for index, (name, reads, writes) in enumerate(ops):
        for tensor in reads:
            if tensor not in constants and tensor not in written:
                raise BadModelError(
                    f"{source}: op {index} {name} reads tensor {tensors[tensor].name!r} before any op writes it",
                    remedy="convert the model again",
                )
        for tensor in writes:
            if tensor in written or tensors[tensor].constant:
                raise BadModelError(
                    f"{source}: op {index} {name} writes tensor {tensors[tensor].name!r}, which has a value "
                    "already",
                    remedy="models that work in place cannot be cut",
                )
            written.add(tensor)
        if constants.issuperset(reads):
            derived.add(index)
            constants.update(writes)
        else:
            constants.difference_update(writes)
    for tensor in outputs:
        if tensor not in constants and tensor not in written:
            raise BadModelError(
                f"{source}: output {tensors[tensor].name!r} is written by no op", remedy="convert the model again"
            )
    return derived


def _needed_ops(ops: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]], outputs: Iterable[int]) -> set[int]:
    """Indices of the ops that some model output depends on."""
    wanted = set(outputs)
    needed: set[int] = set()
    for index in reversed(range(len(ops))):
        _, reads, writes = ops[index]
        if not wanted.isdisjoint(writes):
            needed.add(index)
            wanted.update(reads)
    return needed

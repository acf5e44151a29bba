"""Cuts a parsed model in two: packs the ops of one side with their tensors as a ``.tflite`` file.

A head maps the model's inputs to the live tensors; a tail maps the live tensors to the model's outputs. Unused
tensors, buffers and operator codes are left out. Metadata is dropped, except entries that change a backend's
computation. The same input gives the same bytes.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from split_model.errors import BadModelError
from split_model.prepare.tflite.cuts import CutPoint
from split_model.prepare.tflite.graph import Graph, Op
from split_model.prepare.tflite.reading import ModelFile
from split_model.prepare.tflite.tables import load_schema

#: XNNPACK reads this metadata to decide whether it may compute in fp16, so both halves need it.
KEPT_METADATA = (b"reduced_precision_support",)
#: The alignment of weights that the schema demands (``force_align``) and backends expect.
_ALIGNMENT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some ops of a graph as a separate model; all fields are indices into the whole graph."""

    ops: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def head_part(graph: Graph, cut: CutPoint) -> Part:
    """The ops that the live tensors depend on."""
    return Part(ops=_ops_between(graph, graph.inputs, cut.live), inputs=graph.inputs, outputs=cut.live)


def tail_part(graph: Graph, cut: CutPoint) -> Part:
    """The ops that lead from the live tensors to the model's outputs."""
    return Part(ops=_ops_between(graph, cut.live, graph.outputs), inputs=cut.live, outputs=graph.outputs)


def _ops_between(graph: Graph, given: Iterable[int], wanted: Iterable[int]) -> tuple[int, ...]:
    """Ops, in stored order, that compute ``wanted`` from ``given``."""
    producers = graph.producers()
    there = set(given)
    pending = [tensor for tensor in wanted if tensor not in there]
    ops: set[int] = set()
    while pending:
        op: Op | None = producers.get(pending.pop())
        if op is None or op.index in ops:
            continue
        ops.add(op.index)
        pending += [tensor for tensor in op.inputs if tensor not in there]
    return tuple(sorted(ops))


def pack_part(model: ModelFile, part: Part) -> memoryview:
    """The flatbuffer of one part, as a view that can go to a file without another copy."""
    import flatbuffers
    from flatbuffers.builder import BuilderSizeError

    packer = _Packer(model, part)
    most = flatbuffers.Builder.MAX_BUFFER_SIZE
    if packer.weight_bytes() >= most:  # checked before gigabytes are copied
        raise _too_large(model)
    try:
        builder = flatbuffers.Builder(min(packer.estimated_bytes(), most))
        builder.Finish(packer.pack(builder), b"TFL3")
    except BuilderSizeError:
        raise _too_large(model) from None
    return memoryview(builder.Bytes)[builder.Head() :]


def _too_large(model: ModelFile) -> BadModelError:
    return BadModelError(
        f"{model.graph.source}: one side of the cut is over 2 GiB, more than a .tflite can hold",
        remedy="quantise the model",
    )


class _Packer:
    """Renumbers what a part uses and writes it."""

    def __init__(self, model: ModelFile, part: Part) -> None:
        self.schema = load_schema()
        self.model = model
        self.part = part
        ops = [model.ops[index] for index in part.ops]
        used = {*part.inputs, *part.outputs}
        for op in ops:
            for vector in (op.inputs, op.outputs, op.intermediates):
                used.update(int(index) for index in (() if vector is None else vector) if index >= 0)
        self.kept_tensors = sorted(used)
        self.crossing = set(part.inputs) - set(model.graph.inputs)
        self.kept_codes = sorted({op.opcodeIndex for op in ops})
        self.metadata = [entry for entry in model.metadata if entry[0] in KEPT_METADATA]
        constant = {model.tensors[index].buffer for index in used if model.graph.tensors[index].constant}
        #: Buffer 0 is the empty one, whatever the file had there.
        self.kept_buffers = sorted(constant | {buffer for _, buffer in self.metadata})
        self.tensor_at = {old: new for new, old in enumerate(self.kept_tensors)}
        self.code_at = {old: new for new, old in enumerate(self.kept_codes)}
        self.buffer_at = {old: new for new, old in enumerate(self.kept_buffers, start=1)}

    def weight_bytes(self) -> int:
        """Bytes of all stored values that this part needs."""
        return sum(self.model.buffers[index].size for index in self.kept_buffers)

    def estimated_bytes(self) -> int:
        """Initial size of the builder, so that it need not grow (which doubles and copies)."""
        tables = 64 * len(self.kept_buffers) + 512 * (len(self.kept_tensors) + len(self.part.ops))
        return self.weight_bytes() + tables + (64 << 10)

    def pack(self, builder: Any) -> int:
        """Write the whole model; returns the offset of its root table."""
        schema = self.schema
        # Weights first: they end up at the end of the file, as the converter writes them.
        buffers = [_pack_buffer(schema, builder, self.model.buffers[index]) for index in self.kept_buffers]
        packed_model = schema.ModelT()
        packed_model.version = self.model.version
        packed_model.description = "made by split-model"
        packed_model.operatorCodes = [self.model.codes[index] for index in self.kept_codes]
        packed_model.subgraphs = [self._subgraph()]
        packed_model.buffers = [schema.BufferT(), *map(_Packed, buffers)]
        packed_model.metadata = [self._metadata(name, buffer) for name, buffer in self.metadata] or None
        packed_model.signatureDefs = self._signatures() or None
        return int(packed_model.Pack(builder))

    def _subgraph(self) -> Any:
        graph = self.schema.SubGraphT()
        graph.name = b"main"
        graph.tensors = [self._tensor(index) for index in self.kept_tensors]
        graph.operators = [self._op(index) for index in self.part.ops]
        graph.inputs = self._renumbered(self.part.inputs)
        graph.outputs = self._renumbered(self.part.outputs)
        return graph

    def _tensor(self, index: int) -> Any:
        tensor = copy.copy(self.model.tensors[index])
        plain = self.model.graph.tensors[index]
        tensor.buffer = self.buffer_at[tensor.buffer] if plain.constant else 0
        if not plain.constant and tensor.shape is not None and not plain.open_axes:
            tensor.shape = np.asarray(plain.shape, np.int32)  # the resolved shape, not the file's placeholder
            if index in self.crossing:
                tensor.shapeSignature = None  # live tensors have the single resolved shape
        return tensor

    def _op(self, index: int) -> Any:
        op = copy.copy(self.model.ops[index])
        op.opcodeIndex = self.code_at[op.opcodeIndex]
        op.inputs = self._renumbered(op.inputs)
        op.outputs = self._renumbered(op.outputs)
        if op.intermediates is not None:
            op.intermediates = self._renumbered(op.intermediates)
        op.debugMetadataIndex = -1
        return op

    def _renumbered(self, indices: Any) -> Any:
        if indices is None:
            return None
        return np.asarray([self.tensor_at[int(index)] if index >= 0 else -1 for index in indices], np.int32)

    def _metadata(self, name: bytes, buffer: int) -> Any:
        entry = self.schema.MetadataT()
        entry.name, entry.buffer = name, self.buffer_at[buffer]
        return entry

    def _signatures(self) -> list[Any]:
        """Signatures: inputs and outputs with the names of the whole model, live tensors with their own."""
        return [self._signature(whole) for whole in self.model.signatures]

    def _signature(self, whole: Any) -> Any:
        graph = self.model.graph
        made = copy.copy(whole)
        made.inputs = self._entries(whole.inputs, self.part.inputs, keep=self.part.inputs == graph.inputs)
        made.outputs = self._entries(whole.outputs, self.part.outputs, keep=self.part.outputs == graph.outputs)
        return made

    def _entries(self, whole: Sequence[Any] | None, tensors: Sequence[int], *, keep: bool) -> list[Any]:
        if keep:
            rim = set(tensors)
            named = [(entry.name, entry.tensorIndex) for entry in whole or () if entry.tensorIndex in rim]
        else:
            named = list(zip(_unique_names(self.model.graph, tensors), tensors, strict=True))
        made = []
        for name, tensor in named:
            entry = self.schema.TensorMapT()
            entry.name, entry.tensorIndex = name, self.tensor_at[tensor]
            made.append(entry)
        return made


class _Packed:
    """A table that is in the builder already, where the schema's classes expect one to pack."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def Pack(self, _builder: Any) -> int:  # noqa: N802  # the name that the schema's classes call
        return self.offset


def _pack_buffer(schema: Any, builder: Any, view: Any) -> int:
    """One buffer table, its bytes aligned and copied once."""
    builder.StartVector(1, view.size, _ALIGNMENT)
    builder.head -= view.size
    memoryview(builder.Bytes)[builder.head : builder.head + view.size] = memoryview(view)
    data = builder.EndVector()
    schema.BufferStart(builder)
    schema.BufferAddData(builder, data)
    return int(schema.BufferEnd(builder))


def _unique_names(graph: Graph, tensors: Sequence[int]) -> list[bytes]:
    """Tensor names; a signature needs them to differ, so a repeated one gets its tensor index."""
    names = [graph.tensors[tensor].name for tensor in tensors]
    times = Counter(names)
    return [
        (name if times[name] == 1 else f"{name}:{tensor}").encode()
        for name, tensor in zip(names, tensors, strict=True)
    ]

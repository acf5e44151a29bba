"""Writes a ``.tflite`` file with the schema and flatbuffers only: tensors, ops, one subgraph, one signature.

Shared by the recipes that build a network from its weights. The same calls give the same bytes.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from split_model.arrays import Array

RELU = schema.ActivationFunctionType.RELU
RELU6 = schema.ActivationFunctionType.RELU6
LINEAR = schema.ActivationFunctionType.NONE

_ALIGNMENT = 16  # TFLite reads weights in place; the schema asks for this alignment
_TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.int32): schema.TensorType.INT32,
}


class _Builder(flatbuffers.Builder):  # type: ignore[misc]  # flatbuffers has no types
    """A builder that aligns byte vectors by the schema's ``force_align``, which Python's builder ignores."""

    def CreateNumpyVector(self, x: Array) -> int:  # noqa: N802  # the library's name
        if x.dtype != np.uint8:
            return int(super().CreateNumpyVector(x))
        self.StartVector(1, x.size, _ALIGNMENT)
        self.head -= x.size
        self.Bytes[self.head : self.head + x.size] = x.tobytes()
        return int(self.EndVector())


class Graph:
    """A one-subgraph model under construction; tensors are named after the op that computes them."""

    def __init__(self, description: str) -> None:
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.description = description
        self.model.buffers = [schema.BufferT()]  # buffer 0 is the empty one, for activations
        self.model.operatorCodes = []
        self.subgraph = schema.SubGraphT()
        self.subgraph.name = "main"
        self.subgraph.tensors = []
        self.subgraph.operators = []
        self.model.subgraphs = [self.subgraph]
        self._codes: dict[int, int] = {}

    def tensor(self, name: str, shape: tuple[int, ...], data: Array | None = None) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, list(shape), 0
        tensor.type = _TYPES[np.dtype(np.float32) if data is None else data.dtype]
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.subgraph.tensors.append(tensor)
        return len(self.subgraph.tensors) - 1

    def packed(self, name: str, data: Array) -> int:
        """A float constant of several axes, kept as int8 with one scale a row, and widened on loading."""
        scales = np.maximum(np.abs(data).reshape(len(data), -1).max(axis=1), 1e-12) / 127
        codes = np.rint(data / scales.reshape(-1, *(1,) * (data.ndim - 1))).astype(np.int8)
        stored = self.tensor(f"{name}/int8", data.shape, codes)
        quantised = schema.QuantizationParametersT()
        quantised.scale = scales.astype(np.float32)
        quantised.zeroPoint = np.zeros(len(data), np.int64)
        quantised.quantizedDimension = 0
        self.subgraph.tensors[stored].quantization = quantised
        return self.op("DEQUANTIZE", [stored], self.tensor(name, data.shape), schema.DequantizeOptionsT())

    def shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(self.subgraph.tensors[tensor].shape)

    def op(self, kind: str, inputs: list[int], output: int, options: Any) -> int:
        builtin = getattr(schema.BuiltinOperator, kind)
        if builtin not in self._codes:
            code = schema.OperatorCodeT()
            code.builtinCode = code.deprecatedBuiltinCode = builtin  # all below 127, so old readers agree
            code.version = 1
            self._codes[builtin] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = self._codes[builtin]
        operator.inputs, operator.outputs = inputs, [output]
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        operator.builtinOptions = options
        self.subgraph.operators.append(operator)
        return output

    def finish(self, source: int, *results: int) -> bytes:
        self.subgraph.inputs, self.subgraph.outputs = [source], list(results)
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs, signature.outputs = [self._named(source)], [self._named(one) for one in results]
        self.model.signatureDefs = [signature]
        builder = _Builder(1 << 24)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _named(self, tensor: int) -> Any:
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = self.subgraph.tensors[tensor].name, tensor
        return entry

"""A small builder of real ``.tflite`` files, so that tests say in a few lines what model they need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_OPTIONS = {
    "CONV_2D": ("Conv2DOptions", {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}),
    "DEPTHWISE_CONV_2D": (
        "DepthwiseConv2DOptions",
        {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1, "depthMultiplier": 1},
    ),
    "ADD": ("AddOptions", {}),
    "MUL": ("MulOptions", {}),
    "CONCATENATION": ("ConcatenationOptions", {"axis": 3}),
    "FULLY_CONNECTED": ("FullyConnectedOptions", {}),
    "RESHAPE": ("ReshapeOptions", {}),
    "SPLIT": ("SplitOptions", {"numSplits": 2}),
    "DEQUANTIZE": ("DequantizeOptions", {}),
    "QUANTIZE": ("QuantizeOptions", {}),
    "SOFTMAX": ("SoftmaxOptions", {"beta": 1.0}),
    "SQUEEZE": ("SqueezeOptions", {}),
    "SUM": ("ReducerOptions", {"keepDims": True}),
    "MAX_POOL_2D": ("Pool2DOptions", {"strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2}),
}


class ModelBuilder:
    """Collects tensors and ops; ``build`` gives the bytes."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.model = schema.ModelT(version=3, operatorCodes=[], buffers=[schema.BufferT()])
        self.graph = schema.SubGraphT(tensors=[], operators=[], name=b"main")
        self.external: dict[int, bytes] = {}

    def tensor(
        self,
        shape: Sequence[int],
        data: Any = None,
        *,
        dtype: str = "float32",
        name: str | bytes | None = None,
        scale: Sequence[float] = (),
        zero_point: Sequence[int] = (),
        axis: int = 0,
        variable: bool = False,
        signature: Sequence[int] | None = None,
        external: bool = False,
    ) -> int:
        index = len(self.graph.tensors)
        label = f"t{index}" if name is None else name
        tensor = schema.TensorT(
            shape=np.asarray(shape, np.int32),
            type=getattr(schema.TensorType, dtype.upper()),
            name=label.encode() if isinstance(label, str) else label,
            isVariable=variable,
            shapeSignature=None if signature is None else np.asarray(signature, np.int32),
        )
        if scale:
            tensor.quantization = schema.QuantizationParametersT(
                scale=np.asarray(scale, np.float32),
                zeroPoint=np.asarray(zero_point or [0] * len(scale), np.int64),
                quantizedDimension=axis,
            )
        if data is not None:
            raw = np.ascontiguousarray(data).tobytes()
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(schema.BufferT())
            if external:
                self.external[tensor.buffer] = raw
            else:
                self.model.buffers[-1].data = np.frombuffer(raw, np.uint8)
        self.graph.tensors.append(tensor)
        return index

    def weights(self, shape: Sequence[int], *, half: bool = False, external: bool = False) -> int:
        """A random float constant; with ``half`` stored as fp16 behind a DEQUANTIZE."""
        values = self.rng.normal(0, 0.5, shape)
        if not half:
            return self.tensor(shape, values.astype(np.float32), external=external)
        stored = self.tensor(shape, values.astype(np.float16), dtype="float16", external=external)
        return self.op("DEQUANTIZE", [stored], shape)

    def op(
        self, name: str, inputs: Sequence[int], output: Any = None, *, code: bytes | None = None, **options: Any
    ) -> int:
        """Append an op; ``output`` is a shape or a tensor, for SPLIT its list of tensors. Returns the first one."""
        outputs = output if name == "SPLIT" else [output if isinstance(output, int) else self.tensor(output)]
        made = schema.OperatorT(
            opcodeIndex=self._code(name, code),
            inputs=np.asarray(inputs, np.int32),
            outputs=np.asarray(outputs, np.int32),
        )
        kind, defaults = _OPTIONS.get(name, (None, {}))
        if kind is not None:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            made.builtinOptions = getattr(schema, kind + "T")()
            for field, value in {**defaults, **options}.items():
                setattr(made.builtinOptions, field, value)
        self.graph.operators.append(made)
        return outputs[0]

    def conv(self, source: int, channels: int, *, size: int = 1, half: bool = False, external: bool = False) -> int:
        """A CONV_2D with padding SAME and a bias."""
        shape = [int(side) for side in self.graph.tensors[source].shape]
        kernel = self.weights([channels, size, size, shape[3]], half=half, external=external)
        bias = self.weights([channels])
        return self.op("CONV_2D", [source, kernel, bias], [*shape[:3], channels])

    def _code(self, name: str, custom: bytes | None) -> int:
        number = getattr(schema.BuiltinOperator, name)
        for index, code in enumerate(self.model.operatorCodes):
            if (code.builtinCode, code.customCode) == (number, custom):
                return index
        self.model.operatorCodes.append(
            schema.OperatorCodeT(
                builtinCode=number, deprecatedBuiltinCode=min(number, 127), customCode=custom, version=1
            )
        )
        return len(self.model.operatorCodes) - 1

    def build(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        subgraphs: int = 1,
        old_codes: bool = False,
        signature: tuple[dict[str, int], dict[str, int]] | None = None,
        metadata: Sequence[str] = (),
    ) -> bytes:
        self.graph.inputs = np.asarray(inputs, np.int32)
        self.graph.outputs = np.asarray(outputs, np.int32)
        self.model.subgraphs = [self.graph] * subgraphs
        if old_codes:
            for code in self.model.operatorCodes:
                code.builtinCode = 0
        if signature is not None:
            entries = [
                [schema.TensorMapT(name=name.encode(), tensorIndex=index) for name, index in side.items()]
                for side in signature
            ]
            self.model.signatureDefs = [
                schema.SignatureDefT(inputs=entries[0], outputs=entries[1], signatureKey=b"serving_default")
            ]
        for name in metadata:
            self.model.metadata = [
                *(self.model.metadata or []),
                schema.MetadataT(name=name.encode(), buffer=len(self.model.buffers)),
            ]
            self.model.buffers.append(schema.BufferT(data=np.frombuffer(b"some metadata", np.uint8)))
        return self._pack()

    def _pack(self) -> bytes:
        """External buffers lie behind the flatbuffer, whose length does not depend on their offsets."""
        for index, raw in self.external.items():
            self.model.buffers[index].offset = 1 << 20
            self.model.buffers[index].size = len(raw)
        position = -(-len(self._flat()) // 16) * 16
        behind = b""
        start = position
        for index, raw in self.external.items():
            self.model.buffers[index].offset = start + len(behind)
            behind += raw + bytes(-len(raw) % 16)
        flat = self._flat()
        return flat + (bytes(position - len(flat)) + behind if behind else b"")

    def _flat(self) -> bytes:
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def residual(**weights: Any) -> bytes:
    """input -> conv a -> conv b -> add(a, b) -> conv c."""
    build = ModelBuilder()
    image = build.tensor([1, 4, 4, 2], name="image")
    first = build.conv(image, 3, **weights)
    second = build.conv(first, 3, size=3, **weights)
    total = build.op("ADD", [first, second], [1, 4, 4, 3])
    return build.build([image], [build.conv(total, 2, **weights)])

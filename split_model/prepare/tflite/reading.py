"""Parses an untrusted ``.tflite`` file into a graph and the parts for slicing.

`split_model.prepare.tflite.tables` unpacks the tables and bounds the work; this module interprets them, and refuses
values that would crash a backend. Every error becomes one `BadModelError`.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model.errors import BadModelError, MissingInputError
from split_model.prepare.tflite.graph import Graph, Tensor, make_graph
from split_model.prepare.tflite.tables import MAX_CODES, MAX_OPS, MAX_TENSORS, TableReader, load_schema, printable

#: Maximum bytes of a tensor: larger ones are not for a board, and crash backends.
MAX_TENSOR_BYTES = 1 << 31
#: Maximum number of inputs or outputs of a model.
MAX_RIM = 64
#: Errors of the schema's reader on invalid files.
_READER_ERRORS = (
    struct.error,
    IndexError,
    KeyError,
    ValueError,
    TypeError,
    RecursionError,
    MemoryError,
    OverflowError,
)
_IDENTIFIER = b"TFL3"
_ITEM_BYTES = {"float64": 8, "int64": 8, "uint64": 8, "complex64": 8, "complex128": 16}
#: Ops with as many outputs as this option says.
_OUTPUT_COUNTS = {"SPLIT": "numSplits", "SPLIT_V": "numSplits", "UNPACK": "num"}
#: Ops that unpack stored weights.
_SAME_SHAPE = frozenset(("DEQUANTIZE", "DENSIFY"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A parsed model: the pure graph, and the schema objects (``…T``) that slicing packs again.

    ``buffers`` are uint8 views of the mapped file, also for weights after the flatbuffer.
    """

    graph: Graph
    size_bytes: int
    version: int
    tensors: tuple[Any, ...]
    ops: tuple[Any, ...]
    codes: tuple[Any, ...]
    buffers: tuple[NDArray[np.uint8], ...]
    signatures: tuple[Any, ...]
    metadata: tuple[tuple[bytes, int], ...]


def read_model(path: Path) -> ModelFile:
    """Map a file and parse it.

    Raises:
        MissingInputError: There is no file.
        BadModelError: It is damaged or cannot be cut.

    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            data: memoryview | bytes = (
                memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if size else b""
            )
    except OSError as error:
        raise MissingInputError(f"{path}: {error.strerror or error}", remedy="name a .tflite file") from None
    return parse_model(data, source=str(path))


def parse_model(data: bytes | memoryview, *, source: str = "model in memory") -> ModelFile:
    """Parse bytes, which must stay unchanged as long as the result is used. Errors as in `read_model`."""
    schema = load_schema()
    if len(data) < 16 or bytes(data[4:8]) != _IDENTIFIER:
        raise BadModelError(
            f"{source}: not a .tflite file (no {_IDENTIFIER.decode()} mark)", remedy="name a TFLite model"
        )
    try:
        return _Reader(schema, data, source).model()
    except BadModelError:
        raise
    except _READER_ERRORS as error:
        raise BadModelError(
            f"{source}: damaged .tflite file ({type(error).__name__} while reading it)", remedy="get the file again"
        ) from None


class _Reader(TableReader):
    """One pass over one file."""

    def __init__(self, schema: Any, data: bytes | memoryview, source: str) -> None:
        super().__init__(schema, data, source)
        self.op_names = _names(schema.BuiltinOperator)
        self.dtype_names = {code: name.lower() for code, name in _names(schema.TensorType).items()}

    def model(self) -> ModelFile:
        model = self.schema.Model.GetRootAs(self.data, 0)
        codes = tuple(
            self.charged(self.schema.OperatorCodeT.InitFromObj(code))
            for code in self.items("operator codes", model.OperatorCodesLength(), model.OperatorCodes, MAX_CODES)
        )
        buffers = tuple(
            self.buffer(buffer)
            for buffer in self.items("buffers", model.BuffersLength(), model.Buffers, MAX_TENSORS + MAX_OPS)
        )
        if model.SubgraphsLength() < 1:
            raise self.damaged("has no graph")
        graph = model.Subgraphs(0)
        tensors = tuple(
            self.tensor(index, tensor, len(buffers))
            for index, tensor in enumerate(self.items("tensors", graph.TensorsLength(), graph.Tensors, MAX_TENSORS))
        )
        ops = tuple(
            self.op(index, op, len(codes), len(tensors))
            for index, op in enumerate(self.items("ops", graph.OperatorsLength(), graph.Operators, MAX_OPS))
        )
        if max(graph.InputsLength(), graph.OutputsLength()) > MAX_RIM:
            raise self.damaged(f"{graph.InputsLength()} inputs, {graph.OutputsLength()} outputs (limit {MAX_RIM})")
        inputs = self.indices("graph", graph.InputsAsNumpy(), len(tensors))
        outputs = self.indices("graph", graph.OutputsAsNumpy(), len(tensors))
        values = tuple(self.value(index, tensor, buffers) for index, tensor in enumerate(tensors))
        names = [self.op_name(codes[op.opcodeIndex]) for op in ops]
        for index, (name, op) in enumerate(zip(names, ops, strict=True)):
            self.check_op(f"op {index} {name}", name, op, values)
        made = make_graph(
            source=self.source,
            tensors=values,
            ops=[(name, _present(op.inputs), _present(op.outputs)) for name, op in zip(names, ops, strict=True)],
            inputs=inputs,
            outputs=outputs,
        )
        if model.SubgraphsLength() > 1:
            raise BadModelError(
                f"{self.source}: has {model.SubgraphsLength()} subgraphs, but only one can be cut",
                remedy="convert the model as a single graph",
            )
        return ModelFile(
            graph=made,
            size_bytes=len(self.data),
            version=model.Version(),
            tensors=tensors,
            ops=ops,
            codes=codes,
            buffers=buffers,
            signatures=self.signatures(model, len(tensors)),
            metadata=self.metadata(model, len(buffers)),
        )

    def op_name(self, code: Any) -> str:
        """The builtin's name; old files fill only the deprecated field, new ones may fill only the other."""
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        name = self.op_names.get(number)
        if name is None:
            raise BadModelError(f"{self.source}: builtin op {number} is unknown", remedy="upgrade ai-edge-litert")
        return name if name != "CUSTOM" else f"CUSTOM:{printable(self.text('custom op', code.customCode))}"

    def value(self, index: int, tensor: Any, buffers: tuple[NDArray[np.uint8], ...]) -> Tensor:
        """The plain tensor that the graph is made of."""
        where = f"tensor {index}"
        name = self.text(where, tensor.name)
        if tensor.isVariable:
            raise BadModelError(
                f"{self.source}: tensor {name!r} is a variable, kept between frames, which cannot be cut",
                remedy="convert the model with its state as an input and an output",
            )
        dtype = self.dtype_names.get(tensor.type)
        if dtype is None:
            raise BadModelError(
                f"{self.source}: tensor {name!r} has type {tensor.type}", remedy="upgrade ai-edge-litert"
            )
        shape = tuple(_list(tensor.shape))
        if any(side < 0 for side in shape):
            raise BadModelError(
                f"{self.source}: tensor {name!r} has the open shape {list(shape)}",
                remedy="convert it with fixed shapes",
            )
        if math.prod(shape) * _ITEM_BYTES.get(dtype, 4) >= MAX_TENSOR_BYTES:
            raise self.damaged(f"tensor {name!r} has the absurd shape {list(shape)}")
        scales, zero_points = self.quantisation(name, dtype, tensor.quantization)
        return Tensor(
            index=index,
            name=name,
            shape=shape,
            dtype=dtype,
            constant=tensor.buffer != 0 and buffers[tensor.buffer].size > 0,
            quantised=bool(scales),
            scale=float(scales[0]) if len(scales) == 1 else 0.0,
            zero_point=int(zero_points[0]) if len(scales) == 1 and zero_points else 0,
            dynamic=any(side < 0 for side in _list(tensor.shapeSignature)),
        )

    def quantisation(self, name: str, dtype: str, found: Any) -> tuple[list[float], list[int]]:
        """Scales and zero points; the points must be codes of the type they shift."""
        if found is None:
            return [], []
        if found.detailsType not in (0, 1):  # 1: custom bytes. The others name tensors by index.
            raise BadModelError(
                f"{self.source}: tensor {name!r} is quantised block-wise, which cannot be cut",
                remedy="quantise it per channel",
            )
        scales, zero_points = _list(found.scale), _list(found.zeroPoint)
        if not all(math.isfinite(scale) and scale >= 0 for scale in scales):
            raise self.damaged(f"tensor {name!r} has a scale that is negative or no number")
        codes = np.iinfo(dtype) if dtype in ("int8", "uint8", "int16", "int32") else None
        if codes is not None and not all(codes.min <= point <= codes.max for point in zero_points):
            raise self.damaged(f"tensor {name!r} has a zero point that {dtype} does not hold")
        return scales, zero_points

    def check_op(self, where: str, name: str, op: Any, tensors: tuple[Tensor, ...]) -> None:
        """Check conditions that backends assume; they crash otherwise."""
        field = _OUTPUT_COUNTS.get(name)
        if field is not None and getattr(op.builtinOptions, field, None) != len(_list(op.outputs)):
            raise self.damaged(f"{where} has {len(_list(op.outputs))} outputs, and its options say otherwise")
        if name in _SAME_SHAPE and _list(op.inputs) and _list(op.outputs):
            reads, writes = tensors[op.inputs[0]], tensors[op.outputs[0]]
            if reads.constant and reads.shape != writes.shape:
                raise self.damaged(f"{where} makes {list(writes.shape)} of {list(reads.shape)}")


def _names(enumeration: type) -> dict[int, str]:
    """A schema enumeration, code -> name."""
    return {code: name for name, code in vars(enumeration).items() if isinstance(code, int)}


def _list(vector: Any) -> list[Any]:
    """A schema vector as a list; absent ones are None, or 0 in some releases."""
    return vector.tolist() if isinstance(vector, np.ndarray) else list(vector or [])


def _present(vector: Any) -> tuple[int, ...]:
    """Tensor indices without the -1 of absent optional ones."""
    return tuple(index for index in _list(vector) if index >= 0)

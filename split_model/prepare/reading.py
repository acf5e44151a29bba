"""From the bytes of a ``.tflite`` file, trusted by nobody, to a graph and the parts to slice it with.

This is the only place that reads foreign bytes. It walks the schema's lazy accessors under limits:
counts before loops, vector lengths before use, and a budget for all bytes unpacked, so that a file
whose tables share or overlap costs no more than an honest one. Weights are never copied, they stay
views of the mapped file. Whatever the reader stumbles over becomes one `BadModelError`.
"""

from __future__ import annotations

import functools
import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model.errors import BackendError, BadModelError, MissingInputError
from split_model.prepare.graph import Graph, Tensor, make_graph

MAX_OPS = 50_000
MAX_TENSORS = 100_000
MAX_CODES = 5_000
MAX_SIGNATURES = 64
MAX_RANK = 16
MAX_VALUES = 1 << 40
#: Bytes unpacked may be this many times the file's: honest files share a little.
BUDGET_FACTOR = 4
BUDGET_EXTRA = 1 << 20
#: What a file of nonsense makes the schema's reader raise.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A parsed model: the pure graph, and the schema objects (``…T``) that slicing packs again.

    ``buffers`` are uint8 views of the mapped file, also where the weights lie behind the flatbuffer.
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


def load_schema() -> Any:
    """The TFLite schema module, imported when first needed; `BackendError` where it is not installed."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise BackendError(
            "slicing needs the TFLite schema of ai-edge-litert; install this package with [tools]"
        ) from None
    return schema_py_generated


def read_model(path: Path) -> ModelFile:
    """Map a file and parse it.

    Raises `MissingInputError` where there is none, `BadModelError` where it is damaged or cannot be cut.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            data: memoryview | bytes = (
                memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if size else b""
            )
    except OSError as error:
        raise MissingInputError(f"{path}: {error.strerror or error}; name a .tflite file") from None
    return parse_model(data, source=str(path))


def parse_model(data: bytes | memoryview, *, source: str = "model in memory") -> ModelFile:
    """Parse bytes, which must stay alive and unchanged as long as the result. Errors as in `read_model`."""
    schema = load_schema()
    if len(data) < 16 or bytes(data[4:8]) != _IDENTIFIER:
        raise BadModelError(f"{source}: not a .tflite file (no {_IDENTIFIER.decode()} mark); name a TFLite model")
    try:
        return _Reader(schema, data, source).model()
    except BadModelError:
        raise
    except _READER_ERRORS as error:
        raise BadModelError(
            f"{source}: damaged .tflite file ({type(error).__name__} while reading it); get it again"
        ) from None


class _Reader:
    """One pass over one file."""

    def __init__(self, schema: Any, data: bytes | memoryview, source: str) -> None:
        self.schema = schema
        self.data = data
        self.source = source
        self.budget = BUDGET_FACTOR * len(data) + BUDGET_EXTRA
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
        inputs = self.indices("graph", graph.InputsAsNumpy(), len(tensors))
        outputs = self.indices("graph", graph.OutputsAsNumpy(), len(tensors))
        values = tuple(self.value(index, tensor, buffers) for index, tensor in enumerate(tensors))
        made = make_graph(
            source=self.source,
            tensors=values,
            ops=[(self.op_name(codes[op.opcodeIndex]), _present(op.inputs), _present(op.outputs)) for op in ops],
            inputs=inputs,
            outputs=outputs,
        )
        if model.SubgraphsLength() > 1:
            raise BadModelError(
                f"{self.source}: has {model.SubgraphsLength()} subgraphs, and only one can be cut; "
                "convert the model as a single graph"
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

    # -- limits ----------------------------------------------------------------------------------

    def damaged(self, what: str) -> BadModelError:
        return BadModelError(f"{self.source}: damaged .tflite file: {what}; get it again")

    def items(self, what: str, count: int, get: Callable[[int], Any], limit: int) -> Iterator[Any]:
        """The tables of a vector, counted before they are visited."""
        if count > limit or 4 * count > len(self.data):
            raise self.damaged(f"{count} {what} in {len(self.data)} bytes (limit {limit})")
        return map(get, range(count))

    def charged(self, unpacked: Any) -> Any:
        """Take what an unpacked table holds off the budget and give it back."""
        self.budget -= _held_bytes(unpacked)
        if self.budget < 0:
            raise self.damaged("its tables overlap and unpack to several times its size")
        return unpacked

    def indices(self, where: str, found: Any, count: int, *, lowest: int = 0) -> tuple[int, ...]:
        """A vector of tensor indices, every one in range."""
        if not isinstance(found, np.ndarray):  # the accessor of an absent vector gives 0
            return ()
        if found.size and (int(found.min()) < lowest or int(found.max()) >= count):
            raise self.damaged(f"{where} names a tensor out of range 0..{count - 1}")
        return tuple(found.tolist())

    # -- tables ----------------------------------------------------------------------------------

    def buffer(self, buffer: Any) -> NDArray[np.uint8]:
        """The bytes of a buffer, inside the flatbuffer or behind it."""
        offset, size = buffer.Offset(), buffer.Size()
        if offset > 1:  # 0 and 1 mean: not behind the flatbuffer
            if offset + size > len(self.data):
                raise self.damaged(f"a buffer ends at byte {offset + size} of {len(self.data)}")
            view: Any = np.frombuffer(self.data, np.uint8, count=size, offset=offset)
        else:
            view = buffer.DataAsNumpy()
        if not isinstance(view, np.ndarray):
            view = np.empty(0, np.uint8)
        made: NDArray[np.uint8] = self.charged(view)
        return made

    def tensor(self, index: int, tensor: Any, buffers: int) -> Any:
        where = f"tensor {index}"
        if tensor.ShapeLength() > MAX_RANK or tensor.ShapeSignatureLength() > MAX_RANK:
            raise self.damaged(f"{where} has {tensor.ShapeLength()} dimensions (limit {MAX_RANK})")
        if tensor.VariantTensorsLength():
            raise BadModelError(f"{self.source}: {where} holds other tensors (VARIANT), which cannot be cut")
        sparsity = tensor.Sparsity()
        if sparsity is not None and sparsity.DimMetadataLength() > 4 * MAX_RANK:
            raise self.damaged(f"{where} has {sparsity.DimMetadataLength()} sparse dimensions")
        unpacked = self.charged(self.schema.TensorT.InitFromObj(tensor))
        if not 0 <= unpacked.buffer < max(buffers, 1):
            raise self.damaged(f"{where} names buffer {unpacked.buffer} of {buffers}")
        if getattr(unpacked, "externalBuffer", 0):
            raise BadModelError(f"{self.source}: {where} keeps its values in another file; convert it as one file")
        return unpacked

    def op(self, index: int, op: Any, codes: int, tensors: int) -> Any:
        where = f"op {index}"
        unpacked = self.charged(self.schema.OperatorT.InitFromObj(op))
        if not 0 <= unpacked.opcodeIndex < codes:
            raise self.damaged(f"{where} names operator code {unpacked.opcodeIndex} of {codes}")
        for vector, lowest in ((unpacked.inputs, -1), (unpacked.outputs, 0), (unpacked.intermediates, -1)):
            self.indices(where, vector, tensors, lowest=lowest)
        for kind, options in (
            (unpacked.builtinOptionsType, unpacked.builtinOptions),
            (unpacked.builtinOptions2Type, unpacked.builtinOptions2),
        ):
            if kind and options is None:
                raise BadModelError(
                    f"{self.source}: {where} has options of kind {kind}, which this schema does not know; "
                    "upgrade ai-edge-litert"
                )
        start, size = unpacked.largeCustomOptionsOffset, unpacked.largeCustomOptionsSize
        if start > 1 and size:
            if start + size > len(self.data):
                raise self.damaged(f"the options of {where} end at byte {start + size} of {len(self.data)}")
            unpacked.customOptions = self.charged(np.frombuffer(self.data, np.uint8, count=size, offset=start))
        unpacked.largeCustomOptionsOffset = unpacked.largeCustomOptionsSize = 0
        return unpacked

    def op_name(self, code: Any) -> str:
        """The builtin's name; old files fill only the deprecated field, new ones may fill only the other."""
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        name = self.op_names.get(number)
        if name is None:
            raise BadModelError(f"{self.source}: builtin op {number} is unknown; upgrade ai-edge-litert")
        return name if name != "CUSTOM" else f"CUSTOM:{self.text('custom op', code.customCode)}"

    def value(self, index: int, tensor: Any, buffers: tuple[NDArray[np.uint8], ...]) -> Tensor:
        """The plain tensor that the graph is made of."""
        where = f"tensor {index}"
        name = self.text(where, tensor.name)
        if tensor.isVariable:
            raise BadModelError(
                f"{self.source}: tensor {name!r} is a variable, kept between frames, which cannot be cut; "
                "convert the model with its state as an input and an output"
            )
        dtype = self.dtype_names.get(tensor.type)
        if dtype is None:
            raise BadModelError(f"{self.source}: tensor {name!r} has type {tensor.type}; upgrade ai-edge-litert")
        shape = tuple(_list(tensor.shape))
        if any(side < 0 for side in shape):
            raise BadModelError(
                f"{self.source}: tensor {name!r} has the open shape {list(shape)}; convert it with fixed shapes"
            )
        values = functools.reduce(lambda size, side: min(size * side, MAX_VALUES + 1), shape, 1)
        if values > MAX_VALUES:
            raise self.damaged(f"tensor {name!r} has the absurd shape {list(shape)}")
        scales, zero_points = self.quantisation(name, tensor.quantization)
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

    def quantisation(self, name: str, found: Any) -> tuple[list[float], list[int]]:
        if found is None:
            return [], []
        if found.detailsType not in (0, 1):  # 1: custom bytes. The others name tensors by index.
            raise BadModelError(f"{self.source}: tensor {name!r} is quantised block-wise, which is not sliced")
        return _list(found.scale), _list(found.zeroPoint)

    def text(self, where: str, found: Any) -> str:
        try:
            return bytes(found or b"").decode()
        except UnicodeDecodeError:
            raise self.damaged(f"the name of {where} is not UTF-8") from None

    def signatures(self, model: Any, tensors: int) -> tuple[Any, ...]:
        made = []
        for signature in self.items("signatures", model.SignatureDefsLength(), model.SignatureDefs, MAX_SIGNATURES):
            if max(signature.InputsLength(), signature.OutputsLength()) > tensors:
                raise self.damaged("a signature names more tensors than there are")
            unpacked = self.charged(self.schema.SignatureDefT.InitFromObj(signature))
            for entry in (unpacked.inputs or []) + (unpacked.outputs or []):
                if not 0 <= entry.tensorIndex < tensors:
                    raise self.damaged(f"a signature names tensor {entry.tensorIndex} of {tensors}")
            made.append(unpacked)
        return tuple(made)

    def metadata(self, model: Any, buffers: int) -> tuple[tuple[bytes, int], ...]:
        made = []
        for entry in self.items("metadata entries", model.MetadataLength(), model.Metadata, MAX_CODES):
            unpacked = self.charged(self.schema.MetadataT.InitFromObj(entry))
            if not 0 <= unpacked.buffer < buffers:
                raise self.damaged(f"metadata names buffer {unpacked.buffer} of {buffers}")
            made.append((bytes(unpacked.name or b""), unpacked.buffer))
        return tuple(made)


def _names(enumeration: type) -> dict[int, str]:
    """A schema enumeration, code -> name."""
    return {code: name for name, code in vars(enumeration).items() if isinstance(code, int)}


def _list(vector: Any) -> list[Any]:
    """A schema vector as a list; absent ones are None, or 0 in some releases."""
    return vector.tolist() if isinstance(vector, np.ndarray) else list(vector or [])


def _present(vector: Any) -> tuple[int, ...]:
    """Tensor indices without the -1 of absent optional ones."""
    return tuple(index for index in _list(vector) if index >= 0)


def _held_bytes(found: Any) -> int:
    """Bytes that an unpacked table and everything below it hold; the schema has no recursive tables."""
    if isinstance(found, np.ndarray):
        return int(found.nbytes)
    if isinstance(found, (bytes, str)):
        return len(found)
    if isinstance(found, list):
        return sum(map(_held_bytes, found))
    if found is None or isinstance(found, (int, float)):
        return 0
    return 32 + sum(map(_held_bytes, vars(found).values()))

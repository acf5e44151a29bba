"""Unpacks the tables of an untrusted ``.tflite`` file within limits.

Counts are checked before loops, and vector lengths before use. A budget limits all unpacked bytes, so that a file
with shared or overlapping tables costs no more than an honest one. Weights are not copied; they stay views of the
file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model.errors import BackendError, BadModelError

MAX_OPS = 20_000
MAX_TENSORS = 60_000
MAX_CODES = 5_000
MAX_SIGNATURES = 64
MAX_RANK = 16
#: Maximum ratio of unpacked bytes to the file's: honest files share a little.
BUDGET_FACTOR = 4
BUDGET_EXTRA = 1 << 20


def load_schema() -> Any:
    """The TFLite schema module, imported when first needed; `BackendError` where it is not installed."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise BackendError(
            "slicing needs the TFLite schema of ai-edge-litert", remedy="install this package with [tools]"
        ) from None
    return schema_py_generated


def printable(text: str) -> str:
    """One line without control characters: names come from the file and go to a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))


class TableReader:
    """Reads one file within limits; ``source`` names it in errors."""

    def __init__(self, schema: Any, data: bytes | memoryview, source: str) -> None:
        self.schema = schema
        self.data = data
        self.source = source
        self.budget = BUDGET_FACTOR * len(data) + BUDGET_EXTRA

    def damaged(self, what: str) -> BadModelError:
        return BadModelError(f"{self.source}: damaged .tflite file: {what}", remedy="get the file again")

    def items(self, what: str, count: int, get: Callable[[int], Any], limit: int) -> Iterator[Any]:
        """The tables of a vector, counted before they are visited."""
        if count > limit or 4 * count > len(self.data):
            raise self.damaged(f"{count} {what} in {len(self.data)} bytes (limit {limit})")
        return map(get, range(count))

    def charged(self, unpacked: Any) -> Any:
        """Charge an unpacked table's bytes to the budget, and return the table."""
        self.budget -= _held_bytes(unpacked)
        if self.budget < 0:
            raise self.damaged("its tables overlap and unpack to several times its size")
        return unpacked

    def indices(self, where: str, found: Any, count: int, *, lowest: int = 0) -> tuple[int, ...]:
        """A vector of tensor indices, checked to be in range."""
        if not isinstance(found, np.ndarray):  # the accessor of an absent vector gives 0
            return ()
        if found.size and (int(found.min()) < lowest or int(found.max()) >= count):
            raise self.damaged(f"{where} names a tensor out of range 0..{count - 1}")
        return tuple(found.tolist())

    def buffer(self, buffer: Any) -> NDArray[np.uint8]:
        """The bytes of a buffer, inside the flatbuffer or after it."""
        offset, size = buffer.Offset(), buffer.Size()
        if offset > 1:  # 0 and 1 mean: not after the flatbuffer
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
            raise BadModelError(
                f"{self.source}: {where} holds other tensors (VARIANT), which cannot be cut",
                remedy="convert the model without it",
            )
        sparsity = tensor.Sparsity()
        if sparsity is not None and sparsity.DimMetadataLength() > 4 * MAX_RANK:
            raise self.damaged(f"{where} has {sparsity.DimMetadataLength()} sparse dimensions")
        unpacked = self.charged(self.schema.TensorT.InitFromObj(tensor))
        if not 0 <= unpacked.buffer < max(buffers, 1):
            raise self.damaged(f"{where} names buffer {unpacked.buffer} of {buffers}")
        if getattr(unpacked, "externalBuffer", 0):
            raise BadModelError(
                f"{self.source}: {where} keeps its values in another file", remedy="convert it as one file"
            )
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
                    f"{self.source}: {where} has options of kind {kind}, which this schema does not know",
                    remedy="upgrade ai-edge-litert",
                )
        start, size = unpacked.largeCustomOptionsOffset, unpacked.largeCustomOptionsSize
        if start > 1 and size:
            if start + size > len(self.data):
                raise self.damaged(f"the options of {where} end at byte {start + size} of {len(self.data)}")
            unpacked.customOptions = self.charged(np.frombuffer(self.data, np.uint8, count=size, offset=start))
        unpacked.largeCustomOptionsOffset = unpacked.largeCustomOptionsSize = 0
        return unpacked

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


def _held_bytes(found: Any) -> int:
    """Bytes of an unpacked table and everything below it; the schema has no recursive tables."""
    if isinstance(found, np.ndarray):
        return int(found.nbytes)
    if isinstance(found, (bytes, str)):
        return len(found)
    if isinstance(found, list):
        return sum(map(_held_bytes, found))
    if found is None or isinstance(found, (int, float)):
        return 0
    return 32 + sum(map(_held_bytes, vars(found).values()))

"""What programs on the board say to a source of kind ``socket``, and what they hear: docs/local-socket.md. No I/O.

A message is a header and one frame of raw little-endian values for each tensor that the header names. The header is
a MessagePack array whose first item says which message it is; every field is checked before anything looks at it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from split_model.errors import ProtocolError

VERSION = 1
MAX_HEADER_BYTES = 64 << 10
MAX_TENSORS = 16
DEFAULT_PATH = "/run/edge-runtime/frames.sock"

Array: TypeAlias = NDArray[Any]
DType: TypeAlias = Literal["float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool"]
Id: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=1000)]

RefusalCode = Literal[
    "busy",  # as many frames are waiting as may; try again later
    "bad_input",  # the tensors do not fit the model
    "failed",  # the model failed on this frame
    "protocol",  # a message that is none
    "version",  # a protocol version that this program does not speak
    "stopping",  # the program is about to end
]


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages."""


class TensorHeader(_Message, frozen=True):
    """Element type and shape of one frame of values."""

    dtype: DType
    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)], ...], msgspec.Meta(max_length=8)]

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


Tensors: TypeAlias = Annotated[tuple[TensorHeader, ...], msgspec.Meta(max_length=MAX_TENSORS)]


class Describe(_Message, frozen=True, tag="describe"):
    """Client: what does the model take?"""

    version: int


class Submit(_Message, frozen=True, tag="submit"):
    """Client: answer these tensors. ``id`` is the client's own; it comes back with the answer."""

    version: int
    id: Id
    tensors: Tensors
    name: Annotated[str, msgspec.Meta(max_length=256)] = ""


class Description(_Message, frozen=True, tag="description"):
    """Device: the model's inputs and outputs. ``pictures``: it takes one uint8 [height, width, channels] as well.

    ``queue_frames`` may wait in all, ``client_frames`` of one client.
    """

    version: int
    model: str
    inputs: Tensors
    outputs: Tensors
    pictures: bool
    queue_frames: int
    client_frames: int


class Answer(_Message, frozen=True, tag="answer"):
    """Device: the record of the frame as the sinks have it, and the model's raw outputs."""

    id: Id
    record: dict[str, Any]
    tensors: Tensors


class Refusal(_Message, frozen=True, tag="refusal"):
    """Device: there will be no answer to this ``id``, None where the message had none that could be read."""

    id: Id | None
    code: RefusalCode
    text: Text


ToDevice: TypeAlias = Describe | Submit
ToClient: TypeAlias = Description | Answer | Refusal

_ENCODER = msgspec.msgpack.Encoder()
_TO_DEVICE = msgspec.msgpack.Decoder(ToDevice)
_TO_CLIENT = msgspec.msgpack.Decoder(ToClient)


def encode(message: ToDevice | ToClient) -> bytes:
    """A header as it goes out."""
    return _ENCODER.encode(message)


def decode_to_device(header: bytes | memoryview) -> ToDevice:
    """A client's header. `ProtocolError` if it is none."""
    message: ToDevice = _decode(_TO_DEVICE, header)
    return message


def decode_to_client(header: bytes | memoryview) -> ToClient:
    """The device's header. `ProtocolError` if it is none."""
    message: ToClient = _decode(_TO_CLIENT, header)
    return message


def _decode(decoder: msgspec.msgpack.Decoder[Any], header: bytes | memoryview) -> Any:
    if len(header) > MAX_HEADER_BYTES:
        raise ProtocolError(f"a header of {len(header)} bytes, at most {MAX_HEADER_BYTES} are taken")
    try:
        return decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"a header that is none: {str(error)[:200]}") from None


def headers_of(tensors: Sequence[Array]) -> tuple[TensorHeader, ...]:
    """The tensors' headers. `ProtocolError` for an element type that the protocol does not have."""
    try:
        return tuple(msgspec.convert((t.dtype.name, t.shape), TensorHeader) for t in tensors)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"{[t.dtype.name for t in tensors]}: {error}") from None


def values_of(tensors: Sequence[Array]) -> list[memoryview]:
    """The tensors' values as they go out; not copied where they lie in order already."""
    ordered = (np.ascontiguousarray(tensor).reshape(-1) for tensor in tensors)
    return [_little(tensor).view(np.uint8).data for tensor in ordered]


def tensors_of(headers: Sequence[TensorHeader], values: Sequence[bytes | memoryview]) -> tuple[Array, ...]:
    """Headers and values as arrays, not copied, read-only. `ProtocolError` where they do not fit each other."""
    if len(headers) != len(values):
        raise ProtocolError(f"{len(headers)} tensors announced, {len(values)} came")
    for number, (header, raw) in enumerate(zip(headers, values, strict=True)):
        if header.nbytes != len(raw):
            announced = f"{header.dtype}{list(header.shape)}, {header.nbytes} bytes, announced"
            raise ProtocolError(f"tensor {number}: {announced}, {len(raw)} came")
    return tuple(
        _little(np.frombuffer(raw, header.dtype)).reshape(header.shape)
        for header, raw in zip(headers, values, strict=True)
    )


def _little(array: Array) -> Array:
    """To or from little-endian, which is what nearly every machine has anyway."""
    return array if sys.byteorder == "little" else array.byteswap()

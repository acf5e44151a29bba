"""The messages of the local API as the device program checks them: docs/local-socket.md. No I/O.

A header is a JSON array whose first item names the message. Every field is checked before it is used. The client
builds and reads the same arrays without this module, as the board's system Python may have no msgspec.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from edge_runtime.local_api.tensors import nbytes_of, specs_of
from split_model.arrays import Array
from split_model.errors import ProtocolError

MAX_TENSORS = 16

DType: TypeAlias = Literal["float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool"]
Dimension: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Shape: TypeAlias = Annotated[tuple[Dimension, ...], msgspec.Meta(max_length=8)]
Tensors: TypeAlias = Annotated[tuple[tuple[DType, Shape], ...], msgspec.Meta(max_length=MAX_TENSORS)]
Id: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=256)]

RefusalCode = Literal[
    "busy",  # frames, bytes or connections are at their limit; try again later
    "bad_input",  # the tensors do not fit the model
    "failed",  # the model failed on this frame
    "protocol",  # not a message of this socket
    "stopping",  # the program is about to end
]


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages."""


class Describe(_Message, frozen=True, tag="describe"):
    """Client: ask for the model's inputs and the limits."""


class Submit(_Message, frozen=True, tag="submit"):
    """Client: ask for the answer to these tensors. ``id`` is the client's own; it comes back with the answer."""

    id: Id
    tensors: Tensors
    name: Name = ""

    @property
    def nbytes(self) -> int:
        """Bytes of the body."""
        return sum(nbytes_of(spec) for spec in self.tensors)


class Subscribe(_Message, frozen=True, tag="subscribe"):
    """Client: ask for the records whose topic begins with this, from now on."""

    topic: Name


class Description(_Message, frozen=True, tag="description"):
    """Device: the model's inputs and outputs. ``pictures``: it also accepts one uint8 [height, width, channels].

    ``queue_frames``: frames that may wait in all; ``client_frames``: those of one client; ``max_tensor_bytes``:
    limit of each tensor.
    """

    model: str
    inputs: Tensors
    outputs: Tensors
    pictures: bool
    queue_frames: int
    client_frames: int
    max_tensor_bytes: int


class Answer(_Message, frozen=True, tag="answer"):
    """Device: the frame's record as the sinks write it; the body has the model's raw outputs."""

    id: Id
    record: dict[str, Any]
    tensors: Tensors


class Refusal(_Message, frozen=True, tag="refusal"):
    """Sent by the device: this ``id`` will get no answer. ``id`` is None if the message had no readable one."""

    id: Id | None
    code: RefusalCode
    text: str


class Record(_Message, frozen=True, tag="record"):
    """Device: a record for subscribers of ``topic``; the body has the model's raw outputs."""

    topic: str
    record: dict[str, Any]
    tensors: Tensors


ToDevice: TypeAlias = Describe | Submit | Subscribe
ToClient: TypeAlias = Description | Answer | Refusal | Record

_ENCODER = msgspec.json.Encoder()
_TO_DEVICE = msgspec.json.Decoder(ToDevice)
_MAX_REFUSAL_CHARS = 1000


def encode(message: ToDevice | ToClient) -> bytes:
    """A message's header."""
    return _ENCODER.encode(message)


def decode_to_device(header: bytes | memoryview) -> ToDevice:
    """Decode a client's header; `ProtocolError` if it is not a valid message."""
    try:
        message: ToDevice = _TO_DEVICE.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a message: {str(error)[:200]}") from None
    return message


def refusal(id_: int | None, code: RefusalCode, text: str) -> Refusal:
    """Make a refusal with its text cut to a bounded length."""
    return Refusal(id_, code, text[:_MAX_REFUSAL_CHARS])


def answer(id_: int, record: dict[str, Any], outputs: Sequence[Array]) -> Answer:
    """Make the answer to a submission; its body is `tensors.values_of` the outputs."""
    return Answer(id_, record, specs_of(outputs))  # type: ignore[arg-type]

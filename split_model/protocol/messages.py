"""The messages of the wire, as validated MessagePack: a header frame and, for some, one payload frame.

A ZeroMQ message is ``[header]`` or ``[header, payload]``. The header is a MessagePack array whose first item
names the message; msgspec checks every field before anything else looks at it. ``Hello`` keeps its form in all
future versions, so that two sides without a common version can still report that.

Times are durations in seconds, never clock readings: the two machines share no clock.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from split_model.errors import ProtocolError
from split_model.protocol.releases import Codebook, Noise, NoRelease, Release, Token
from split_model.protocol.reports import Report

__all__ = ["Codebook", "NoRelease", "Noise", "Release", "Report", "Token"]

#: The supported protocol versions, best first. Version 2 adds `Load`, `Ask` and `AskReply`, 3 adds `Report`.
VERSIONS = (3, 2, 1)
#: The first version with `Load` in answers and refusals, and with `Ask`.
LOAD_VERSION = 2
#: The first version with `Report`.
REPORT_VERSION = 3

#: Maximum frames of a message.
MAX_FRAMES = 2
#: Maximum bytes of a header.
MAX_HEADER_BYTES = 64 << 10
#: Maximum characters of a peer's text in a log.
SHOWN_CHARACTERS = 200
#: Maximum payload of a chunk in bytes; the server's ``MAXMSGSIZE`` follows from it.
MAX_CHUNK_BYTES = 64 << 10
#: Maximum bytes of a request's chunks, so that control messages can be sent between them.
CHUNK_BYTES = 16 << 10

Id: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Size: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]
Hash: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=1000)]

RefusalCode = Literal[
    "version",  # no common protocol version
    "hello_first",  # the peer is not (or no longer) known: greet again
    "unknown_bundle",
    "unknown_cut",
    "unknown_release",  # a release this side cannot undo, or a plan that differs
    "size",  # payload length is not what the cut and the release say
    "too_large",
    "busy",  # queue full
    "expired",  # the answer would come too late
    "protocol",  # a malformed or misplaced message
    "revoked",  # the key is no longer on the allow-list
    "failed",  # the tail failed at inference
]


def shown(text: str) -> str:
    """Make a peer's text safe for a log: short, in one line, with unprintable characters escaped."""
    escaped = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return escaped[:SHOWN_CHARACTERS]


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all messages."""


class Hello(_Message, frozen=True, tag="hello"):
    """Device: the first message on a connection. ``boot_id`` is new at every start of the device program."""

    versions: Annotated[tuple[int, ...], msgspec.Meta(max_length=16)]
    boot_id: Token
    software: Text


class Request(_Message, frozen=True, tag="request"):
    """Device: run the tail at ``cut`` on a payload of ``total_bytes``; carries the first chunk.

    ``due_in_s``: seconds until the answer is due, when this message was written.
    """

    request_id: Id
    boot_id: Token
    version: int
    bundle: Hash
    cut: Id
    release: Release
    total_bytes: Size
    due_in_s: Seconds


class Chunk(_Message, frozen=True, tag="chunk"):
    """Device: more payload of a request, from ``offset`` on. Chunks come in order, without gaps."""

    request_id: Id
    offset: Size


class Cancel(_Message, frozen=True, tag="cancel"):
    """Device: cancel a request."""

    request_id: Id


class Probe(_Message, frozen=True, tag="probe"):
    """Device: content-free bytes to measure the link; with ``total_bytes`` 0 a ping for the round trip."""

    probe_id: Id
    offset: Size
    total_bytes: Size


class Ask(_Message, frozen=True, tag="ask"):
    """Device: would a request at ``cut`` be answered within ``due_in_s``, if it came now? Reserves nothing."""

    ask_id: Id
    bundle: Hash
    cut: Id
    due_in_s: Seconds


class Load(_Message, frozen=True):
    """How busy the server is, for one device and one tail.

    ``queue_s``: maximum wait for a worker of a request at this cut now. ``retry_s``: for this time send no request
    whose tail takes as long as this one; 0: requests are welcome. Both in seconds.
    """

    queue_s: Seconds
    retry_s: Seconds


class Offer(_Message, frozen=True):
    """One bundle the server hosts, with the cuts it has tails for."""

    identity: Hash
    name: Text
    cuts: tuple[Id, ...]


class Welcome(_Message, frozen=True, tag="welcome"):
    """Server: the answer to a `Hello` it accepts, with its limits."""

    version: int
    boot_id: Token
    window_bytes: Size
    request_bytes: Size
    offers: tuple[Offer, ...]


class Ack(_Message, frozen=True, tag="ack"):
    """Server: the number of bytes of this request that have arrived."""

    request_id: Id
    received_bytes: Size


class AnswerTensor(_Message, frozen=True):
    """Shape and dtype of one output tensor in an answer's payload."""

    dtype: Token
    shape: Annotated[tuple[Id, ...], msgspec.Meta(max_length=8)]


class Answer(_Message, frozen=True, tag="answer"):
    """Server: the tail's outputs, one after another in the payload frame.

    ``timed_bytes`` arrived in ``receive_s`` (all but the first chunk, from the first to the last arrival):
    the uplink as this request saw it. ``queue_s`` and ``tail_s``: waiting for a worker, and running. ``load``: for
    the next request like this one, from protocol version 2 on.
    """

    request_id: Id
    tensors: Annotated[tuple[AnswerTensor, ...], msgspec.Meta(max_length=64)]
    timed_bytes: Size
    receive_s: Seconds
    queue_s: Seconds
    tail_s: Seconds
    load: Load | None = None


class ProbeReply(_Message, frozen=True, tag="probe-reply"):
    """Server: a probe has arrived whole; ``timed_bytes`` and ``receive_s`` as in `Answer`."""

    probe_id: Id
    timed_bytes: Size
    receive_s: Seconds


class Refusal(_Message, frozen=True, tag="refusal"):
    """Server: a refusal with its reason. ``request_id``: None for the connection. ``load``: as in `Answer`."""

    request_id: Id | None
    code: RefusalCode
    text: Text
    load: Load | None = None


class AskReply(_Message, frozen=True, tag="ask-reply"):
    """Server: the answer to an `Ask`; yes if ``load.retry_s`` is 0."""

    ask_id: Id
    load: Load


class _PlainAnswer(_Message, frozen=True, tag="answer"):
    """An `Answer` as protocol version 1 has it."""

    request_id: Id
    tensors: tuple[AnswerTensor, ...]
    timed_bytes: Size
    receive_s: Seconds
    queue_s: Seconds
    tail_s: Seconds


class _PlainRefusal(_Message, frozen=True, tag="refusal"):
    """A `Refusal` as protocol version 1 has it."""

    request_id: Id | None
    code: RefusalCode
    text: Text


FromDevice: TypeAlias = Hello | Request | Chunk | Cancel | Probe | Ask | Report
FromServer: TypeAlias = Welcome | Ack | Answer | ProbeReply | Refusal | AskReply

_encoder = msgspec.msgpack.Encoder()
_from_device: msgspec.msgpack.Decoder[FromDevice] = msgspec.msgpack.Decoder(FromDevice)
_from_server: msgspec.msgpack.Decoder[FromServer] = msgspec.msgpack.Decoder(FromServer)
_beginning = msgspec.msgpack.Decoder(list[msgspec.Raw])
_kind = msgspec.msgpack.Decoder(str)
_id: msgspec.msgpack.Decoder[int] = msgspec.msgpack.Decoder(Id)
_OF_A_REQUEST = ("request", "chunk", "cancel")


def encode(message: FromDevice | FromServer) -> bytes:
    """The header frame of a message. Without a load, an answer or a refusal is as protocol version 1 has it."""
    if isinstance(message, Refusal) and message.load is None:
        return _encoder.encode(_PlainRefusal(request_id=message.request_id, code=message.code, text=message.text))
    if isinstance(message, Answer) and message.load is None:
        return _encoder.encode(
            _PlainAnswer(
                request_id=message.request_id,
                tensors=message.tensors,
                timed_bytes=message.timed_bytes,
                receive_s=message.receive_s,
                queue_s=message.queue_s,
                tail_s=message.tail_s,
            )
        )
    return _encoder.encode(message)


def decode_from_device(header: bytes | memoryview) -> FromDevice:
    """Validate a header that a device sent; `ProtocolError` names the mistake."""
    _check_length(header)
    try:
        return _from_device.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"malformed message from the device: {error}") from None


def decode_from_server(header: bytes | memoryview) -> FromServer:
    """Validate a header that a server sent; `ProtocolError` names the mistake."""
    _check_length(header)
    try:
        return _from_server.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"malformed message from the server: {error}") from None


def request_of(header: bytes | memoryview) -> int | None:
    """The request id of a malformed message of a device, if it can be read."""
    try:
        _check_length(header)
        kind, request_id = _beginning.decode(header)[:2]
        return _id.decode(request_id) if _kind.decode(kind) in _OF_A_REQUEST else None
    except (ProtocolError, ValueError, msgspec.DecodeError, RecursionError):
        return None


def _check_length(header: bytes | memoryview) -> None:
    if len(header) > MAX_HEADER_BYTES:
        raise ProtocolError(f"header of {len(header)} bytes is over {MAX_HEADER_BYTES}")


def agree_version(theirs: tuple[int, ...], ours: tuple[int, ...] = VERSIONS) -> int | None:
    """The best common protocol version, or None."""
    return next((version for version in ours if version in theirs), None)

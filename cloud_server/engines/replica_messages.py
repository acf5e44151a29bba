"""Messages between gateway and replicas, as MessagePack: no data of a device is ever unpickled."""

from __future__ import annotations

from typing import Literal

import msgspec

from cloud_server.tails import TailId
from split_model.protocol import messages as wire


class TailJob(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A job for a replica: the tail, by its `TailId`, and the payload of the release."""

    job_id: int
    device: str
    tail: TailId
    release: wire.Release
    payload: bytearray


class TailOutcome(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The outcome of a job: ``payload`` and its ``tensors``, or ``code`` and ``text`` of a refusal.

    ``used_s``: seconds charged to the device. ``loaded``: the tail had to be loaded first.
    """

    job_id: int
    used_s: float
    loaded: bool
    tail_s: float = 0.0
    tensors: tuple[wire.AnswerTensor, ...] = ()
    payload: bytes = b""
    code: wire.RefusalCode | None = None
    text: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The answer to a batch: the ``outcomes``, or hashes of files that are ``missing`` on the node."""

    outcomes: list[TailOutcome] = []
    missing: list[str] = []


class Hello(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A replica's description of itself once it is up."""

    node: str
    pid: int
    software: str
    backend: str


class Preloaded(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The result of loading tails: hashes of ``missing`` files, or the ``error`` of the first that fails."""

    missing: list[str] = []
    error: str = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a replica. ``node_files``: empty for the node's default folder."""

    tail_threads: int
    cache_bytes: int
    node_files: str
    node_files_bytes: int
    emulated_tail_s: float
    kind: Literal["ray"] = "ray"


_ENCODER = msgspec.msgpack.Encoder()
encode = _ENCODER.encode
decode_jobs = msgspec.msgpack.Decoder(list[TailJob]).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
decode_hello = msgspec.msgpack.Decoder(Hello).decode
decode_preloaded = msgspec.msgpack.Decoder(Preloaded).decode
decode_settings = msgspec.msgpack.Decoder(Settings).decode
decode_tails = msgspec.msgpack.Decoder(list[TailId]).decode

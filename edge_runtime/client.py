"""For programs on the board: submit tensors to the device program and get its answers. See docs/local-socket.md.

    from edge_runtime.client import Client

    with Client() as client:
        answer = client.ask(picture)
        print(answer.outcome, answer.top)

Needs pyzmq, msgspec and NumPy, and nothing else of the device program.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zmq
from numpy.typing import ArrayLike, NDArray

from edge_runtime.local_api import messages as wire
from split_model.errors import ProtocolError, SplitModelError

__all__ = ["Answer", "BusyError", "Client", "NoAnswerError", "RefusedError", "subscribe"]

_HEADERS = msgspec.msgpack.Decoder(wire.Tensors)


class RefusedError(SplitModelError):
    """The device program does not answer this submission. ``code`` as in docs/local-socket.md; ``id`` of which."""

    def __init__(self, refusal: wire.Refusal) -> None:
        super().__init__(f"{refusal.code}: {refusal.text}")
        self.code = refusal.code
        self.id = refusal.id


class BusyError(RefusedError):
    """Too many submissions wait already; submit it again later."""


class NoAnswerError(SplitModelError, TimeoutError):
    """Nothing came in time, or nobody is there."""

    def __str__(self) -> str:  # TimeoutError would print an errno tuple
        return str(self.args[0]) if self.args else ""


@dataclass(frozen=True)
class Answer:
    """The answer to one submission.

    ``outputs``: the model's raw outputs, read-only, with the dtypes and shapes that `Client.describe` tells.
    ``record``: the frame's record as the sinks have it. ``id``: what `Client.send` returned.
    """

    id: int
    outputs: tuple[NDArray[Any], ...]
    record: dict[str, Any]

    @property
    def outcome(self) -> str:
        """``offloaded``, ``local`` or ``fallback``: who answered."""
        return str(self.record["outcome"])

    @property
    def top(self) -> list[dict[str, Any]]:
        """The best classes, each with ``class``, ``label`` and ``score``; empty where the model has no classes."""
        return list(self.record.get("top", ()))


class Client:
    """One connection. Not to be shared between threads: a thread of its own makes one of its own.

    ``timeout_s``: how long every call waits, unless it is told otherwise.
    """

    def __init__(self, path: str | Path = wire.DEFAULT_PATH, *, timeout_s: float = 10.0) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._ids = itertools.count(1)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # what is sent while nobody is there must not be sent later
        self._socket.setsockopt(zmq.RECONNECT_IVL, 50)
        self._socket.connect(f"ipc://{path}")

    def __enter__(self) -> Client:  # noqa: PYI034  Self is not in Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is still awaited."""
        self._socket.close()
        self._context.term()

    def describe(self, *, timeout_s: float | None = None) -> wire.Description:
        """What the model takes. Call it while no answer is awaited."""
        self._send(wire.Describe(wire.VERSION), (), timeout_s)
        message, _ = self._receive(timeout_s)
        if not isinstance(message, wire.Description):
            raise ProtocolError(f"{type(message).__name__} where a description was expected")
        return message

    def ask(self, *tensors: ArrayLike, name: str = "", timeout_s: float | None = None) -> Answer:
        """Submit one frame, all inputs of the model, and wait for its answer.

        Raises `BusyError`, `RefusedError`, or `NoAnswerError` when the time is up. Answers to what was asked before
        and given up are dropped.
        """
        deadline_s = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        mine = self.send(*tensors, name=name, timeout_s=timeout_s)
        while True:
            answer = self.receive(timeout_s=max(0.0, deadline_s - time.monotonic()), only=mine)
            if answer.id == mine:
                return answer

    def send(self, *tensors: ArrayLike, name: str = "", timeout_s: float | None = None) -> int:
        """Submit one frame without waiting for its answer; returns the id that the answer will have."""
        arrays = [np.asarray(tensor) for tensor in tensors]
        submit = wire.Submit(wire.VERSION, next(self._ids), wire.headers_of(arrays), name)
        self._send(submit, wire.values_of(arrays), timeout_s)
        return submit.id

    def receive(self, *, timeout_s: float | None = None, only: int | None = None) -> Answer:
        """The next answer to anything that was sent. ``only``: refusals of other ids are passed over."""
        deadline_s = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        while True:
            message, values = self._receive(max(0.0, deadline_s - time.monotonic()))
            if isinstance(message, wire.Answer):
                return Answer(message.id, wire.tensors_of(message.tensors, values), message.record)
            if isinstance(message, wire.Refusal) and (only is None or message.id in (only, None)):
                raise (BusyError if message.code == "busy" else RefusedError)(message)

    def _send(self, message: wire.ToDevice, values: Sequence[memoryview], timeout_s: float | None) -> None:
        wait_s = self._timeout_s if timeout_s is None else timeout_s
        if not self._socket.poll(int(wait_s * 1000), zmq.POLLOUT):
            raise NoAnswerError(f"{self._path}: nobody is there; is the device program running, with this socket?")
        self._socket.send_multipart([wire.encode(message), *values])

    def _receive(self, timeout_s: float | None) -> tuple[wire.ToClient, list[bytes]]:
        wait_s = self._timeout_s if timeout_s is None else timeout_s
        if not self._socket.poll(int(wait_s * 1000), zmq.POLLIN):
            raise NoAnswerError(f"{self._path}: no answer within {wait_s:g} s")
        header, *values = self._socket.recv_multipart()
        return wire.decode_to_client(header), values


def subscribe(
    path: str | Path = "/run/edge-runtime/answers.sock", *, topic: str = "", timeout_s: float | None = None
) -> Iterator[tuple[dict[str, Any], tuple[NDArray[Any], ...]]]:
    """Records as a sink of kind ``pub`` publishes them, each with the model's raw outputs, from now on.

    ``topic``: the beginning of what is wanted, as ``frame`` or ``frame.door``. Ends when nothing came for
    ``timeout_s``; waits without end if that is None.
    """
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    try:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
        socket.connect(f"ipc://{path}")
        while socket.poll(None if timeout_s is None else int(timeout_s * 1000)):
            _, record, headers, *values = socket.recv_multipart()
            yield msgspec.json.decode(record), wire.tensors_of(_HEADERS.decode(headers), values)
    finally:
        socket.close()
        context.term()

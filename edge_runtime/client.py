"""The client library for programs on the board: submit tensors, get answers. See docs/local-socket.md.

    from edge_runtime.client import Client

    with Client() as client:
        answer = client.ask(picture)
        print(answer.outcome, answer.top)

Needs NumPy and nothing else that is not in Python's standard library.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_runtime.local_api import framing
from edge_runtime.local_api.connection import Connection, LostError, NoAnswerError
from edge_runtime.local_api.replies import Answer, BusyError, Description, RefusedError, TensorHeader
from edge_runtime.local_api.tensors import Spec, nbytes_of, specs_of, tensors_of, values_of
from split_model.errors import BadInputError, NotAllowedError, ProtocolError

__all__ = [
    "Answer", "BusyError", "Client", "Description", "LostError", "NoAnswerError", "NotAllowedError", "RefusedError",
    "TensorHeader", "subscribe",
]  # fmt: skip

_RETRY_S = 0.05


class Client:
    """A connection to the device program, made at the first call. Use one client in each thread.

    ``timeout_s``: how long each call waits, unless the call sets another time.

    Every call raises `NotAllowedError` where this user may not use the socket, and `NoAnswerError` where nobody
    serves it.
    """

    def __init__(self, path: str | Path = framing.FRAMES_PATH, *, timeout_s: float = 10.0) -> None:
        self._path = Path(path)
        self._timeout_s = timeout_s
        self._ids = itertools.count(1)
        self._connection: Connection | None = None
        self._description: Description | None = None
        self._awaited: set[int] = set()
        self._lost = ""

    def __enter__(self) -> Client:  # noqa: PYI034  Self is not in Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; answers that have not arrived are lost."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._awaited.clear()

    def describe(self, *, timeout_s: float | None = None) -> Description:
        """Return the model's inputs and outputs, and the limits for submissions."""
        self._connected(self._deadline(timeout_s))
        assert self._description is not None
        return self._description

    def ask(self, *tensors: ArrayLike, name: str = "", timeout_s: float | None = None) -> Answer:
        """Submit one frame, all inputs of the model, and wait for its answer. See `send`.

        Answers to earlier frames whose `ask` timed out are dropped.

        Raises:
            BusyError: Too many submissions wait.
            RefusedError: There will be no answer, for the reason that ``code`` and the text tell.
            NoAnswerError: Nothing came in time.

        """
        deadline_s = self._deadline(timeout_s)
        mine = self._send(tensors, name, deadline_s)
        while True:
            answer = self._receive(deadline_s, only=mine)
            if answer.id == mine:
                return answer

    def send(self, *tensors: ArrayLike, name: str = "", timeout_s: float | None = None) -> int:
        """Submit one frame without waiting for its answer; returns the id that the answer will have.

        Each tensor is an array or nested lists. Floating-point numbers of other sizes are sent as float32, integers
        as the model's element type. A value outside the range of that type is refused.
        """
        return self._send(tensors, name, self._deadline(timeout_s))

    def receive(self, *, timeout_s: float | None = None) -> Answer:
        """Return the next answer to any sent frame. Raises as `ask` does; ``id`` names the refused frame."""
        if self._lost:
            text, self._lost = self._lost, ""
            raise LostError(text)
        return self._receive(self._deadline(timeout_s), only=None)

    def _deadline(self, timeout_s: float | None) -> float:
        return time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)

    def _send(self, given: tuple[ArrayLike, ...], name: str, deadline_s: float) -> int:
        connection = self._connected(deadline_s)
        description = self._description
        assert description is not None
        mine = next(self._ids)
        if len(given) == len(description.inputs):
            wanted: tuple[TensorHeader | None, ...] = description.inputs
        else:  # the device program refuses it with the reason
            wanted = (None,) * len(given)
        tensors = [_as_taken(value, spec, description) for value, spec in zip(given, wanted, strict=True)]
        specs = specs_of(tensors)
        if (over := max(map(nbytes_of, specs), default=0)) > description.max_tensor_bytes:
            limit = description.max_tensor_bytes
            text = f"a tensor of {over} bytes, the device program takes at most {limit} (max_tensor_bytes)"
            raise RefusedError(mine, "bad_input", text)
        connection.send(["submit", mine, specs, name], values_of(tensors), deadline_s)
        self._awaited.add(mine)
        return mine

    def _receive(self, deadline_s: float, *, only: int | None) -> Answer:
        """Return the next answer. ``only``: refusals of other ids are ignored."""
        while True:
            connection = self._connection or self._connected(deadline_s)
            try:
                header, body = connection.receive(deadline_s)
            except LostError as error:
                raise LostError(self._lose(str(error))) from None
            if header[0] == "answer":
                _, id_, record, specs = header
                self._awaited.discard(id_)
                return Answer(id_, tensors_of(_specs(specs), body), record)
            if header[0] == "refusal" and (only is None or header[1] in (only, None)):
                self._awaited.discard(header[1])
                raise _refused(header)

    def _connected(self, deadline_s: float) -> Connection:
        """Return the connection, made again if it was lost."""
        if self._connection is not None and not self._connection.is_alive():
            some = bool(self._awaited)
            text = self._lose(f"{self._path}: the device program closed the connection")
            self._lost = text if some else self._lost
        if self._connection is None:
            self._connection, self._description = _introduce(self._path, deadline_s)
        return self._connection

    def _lose(self, why: str) -> str:
        """Close the connection; returns ``why``, and the frames that were lost with it."""
        assert self._connection is not None
        self._connection.close()
        self._connection = None
        count = len(self._awaited)
        self._awaited.clear()
        return f"{why}; {count} submission{'s' * (count > 1)} got no answer" if count else why


def subscribe(
    path: str | Path = framing.ANSWERS_PATH, *, topic: str = "", timeout_s: float | None = None
) -> Iterator[tuple[dict[str, Any], tuple[NDArray[Any], ...]]]:
    """Yield records of a sink of kind ``pub`` from now on, each with the model's raw outputs.

    ``topic``: how the wanted topics begin, as ``frame`` or ``frame.door``. Ends when nothing came for
    ``timeout_s``; waits for ever if that is None. A lost connection is made again.

    Raises:
        NotAllowedError: This user may not use the socket.
        NoAnswerError: No program serves the socket when the time is up.

    """
    deadline_s = _ever(timeout_s)
    while True:
        connection = None
        try:
            connection = Connection(Path(path), deadline_s)
            connection.send(["subscribe", topic], (), deadline_s)
            while True:
                header, body = _expect(path, "record", connection, deadline_s)
                yield header[2], tensors_of(_specs(header[3]), body)
                deadline_s = _ever(timeout_s)
        except LostError:
            if time.monotonic() >= deadline_s:
                raise
            time.sleep(_RETRY_S)
        except NoAnswerError:
            if connection is None:
                raise
            return
        finally:
            if connection is not None:
                connection.close()


def _ever(timeout_s: float | None) -> float:
    return float("inf") if timeout_s is None else time.monotonic() + timeout_s


def _introduce(path: Path, deadline_s: float) -> tuple[Connection, Description]:
    """Connect and ask for the model's inputs."""
    connection = Connection(path, deadline_s)
    try:
        connection.send(["describe"], (), deadline_s)
        header, _ = _expect(path, "description", connection, deadline_s)
        model, inputs, outputs, *limits = header[1:]
        taken, given = (tuple(TensorHeader(*spec) for spec in _specs(specs)) for specs in (inputs, outputs))
        return connection, Description(model, taken, given, *limits)
    except BaseException:
        connection.close()
        raise


def _expect(path: str | Path, kind: str, connection: Connection, deadline_s: float) -> tuple[list[Any], memoryview]:
    """Return the next message, which must be of this kind; a refusal is raised."""
    header, body = connection.receive(deadline_s)
    if header[0] == "refusal":
        raise _refused(header)
    if header[0] != kind:
        raise ProtocolError(f"{path}: {header[0]!r} where a {kind} was expected")
    return header, body


def _refused(header: list[Any]) -> RefusedError:
    _, id_, code, text = header
    return (BusyError if code == "busy" else RefusedError)(id_, code, text)


def _specs(found: list[Any]) -> tuple[Spec, ...]:
    return tuple((dtype, tuple(shape)) for dtype, shape in found)


def _as_taken(value: ArrayLike, wanted: TensorHeader | None, description: Description) -> NDArray[Any]:
    """Convert an array to an element type of the model if only the precision of values changes."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise BadInputError(f"not an array: {error}") from None
    if array.dtype.kind not in "fiub":
        raise BadInputError(f"an array of {array.dtype.name}", remedy="give numbers")
    if array.dtype.kind == "f":
        dtype = wanted.dtype if wanted is not None and wanted.dtype.startswith("float") else "float32"
        with np.errstate(over="ignore"):  # the device program refuses values that are not finite
            return array.astype(dtype, copy=False)
    if wanted is None or array.dtype.name == wanted.dtype or (array.dtype == np.uint8 and description.pictures):
        return array
    is_input = array.shape in (wanted.shape, wanted.shape[1:])
    dtype = wanted.dtype if is_input or not description.pictures else "uint8"
    converted = array.astype(dtype)
    if not np.array_equal(converted, array):
        raise BadInputError(f"holds integers from {array.min()} to {array.max()}, out of the range of {dtype}")
    return converted

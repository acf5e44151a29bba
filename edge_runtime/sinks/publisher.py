"""The kind ``pub``: every record to whoever listens on a local ZeroMQ PUB socket; docs/local-socket.md.

A message is ``[topic, record as JSON, headers of the outputs as MessagePack, values of each output]``. A subscriber
that does not keep up misses messages, as PUB sockets have it; the records' ``index`` shows the gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import zmq
from numpy.typing import NDArray

from edge_runtime.local_api import messages as wire
from edge_runtime.local_api import socket_files
from edge_runtime.sinks.sink import Sink, SinkTable

_LINGER_MS = 500


class PublisherTable(SinkTable, frozen=True, tag="pub"):
    """``path`` is the socket; this user and, where set, ``group`` may listen.

    ``outputs``: whether the model's raw outputs go along. ``queue_messages`` are kept for a slow subscriber.
    """

    path: Path = Path("/run/edge-runtime/answers.sock")
    group: str | None = None
    outputs: bool = True
    queue_messages: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 100

    def check(self) -> None:
        """Path and group."""
        socket_files.check(self.path, self.group, f"sink {self.label}")

    def open(self) -> Publisher:
        """Bind the socket."""
        self.check()
        return Publisher(self)


class Publisher(Sink):
    """``published``: messages handed to ZeroMQ, whether or not anybody listens."""

    def __init__(self, table: PublisherTable) -> None:
        self._path = table.path
        self._outputs = table.outputs
        self._published = 0
        self._encoder = msgspec.json.Encoder()
        self._headers = msgspec.msgpack.Encoder()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self._socket.setsockopt(zmq.SNDHWM, table.queue_messages)
        try:
            socket_files.bind(self._socket, table.path, table.group, f"sink {table.label}")
        except BaseException:
            self._end()
            raise

    def write(self, record: Mapping[str, Any], outputs: Sequence[NDArray[Any]] = ()) -> None:
        """Publish it under ``frame.`` and the source's name, or under its kind."""
        topic = str(record["kind"]) + (f".{record['source']}" if "source" in record else "")
        tensors = outputs if self._outputs else ()
        parts: list[bytes | memoryview] = [topic.encode(), self._encoder.encode(record)]
        parts.append(self._headers.encode(wire.headers_of(tensors)))
        self._socket.send_multipart([*parts, *wire.values_of(tensors)], zmq.DONTWAIT)
        self._published += 1

    def counters(self) -> dict[str, int]:
        """See the class."""
        return {"published": self._published}

    def close(self) -> None:
        """Send what subscribers still take."""
        self._end()
        socket_files.remove(self._path)

    def _end(self) -> None:
        self._socket.close()
        self._context.term()

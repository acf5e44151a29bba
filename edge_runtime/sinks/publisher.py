"""The kind ``pub``: sends every record to subscribers at a local Unix socket; see docs/local-socket.md.

A subscriber that is too slow misses records; the gap shows in their ``index``. It never slows the program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from numpy.typing import NDArray

from edge_runtime.local_api import framing, messages, socket_files
from edge_runtime.local_api.publications import Publications
from edge_runtime.local_api.server import Server
from edge_runtime.local_api.tensors import specs_of, values_of
from edge_runtime.sinks.sink import Sink, SinkTable
from split_model.answers.lines import shortened
from split_model.errors import OutputError


class PublisherTable(SinkTable, frozen=True, tag="pub"):
    """``path`` is the socket; this user and, if set, ``group`` may subscribe.

    ``outputs``: whether records come with the model's raw outputs. The latest ``queue_messages`` records, of at
    most
    ``queue_bytes`` in all, are kept for slow subscribers. ``max_clients``: connections at a time, shared among
    users.
    """

    path: Path = Path(framing.ANSWERS_PATH)
    group: str | None = None
    outputs: bool = True
    queue_messages: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 100
    queue_bytes: Annotated[int, msgspec.Meta(ge=64 << 10, le=1 << 40)] = 16 << 20
    max_clients: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 64

    def check(self) -> None:
        """Check path and group."""
        socket_files.check(self.path, self.group, f"sink {self.label}")

    def open(self) -> Publisher:
        """Bind the socket."""
        self.check()
        return Publisher(self)


class Publisher(Sink):
    """Publishes records. ``published``: number of records. ``lost``: those that slow subscribers missed.

    ``subscribers``: their present number. ``disconnected``: connections that were turned away or ended.
    """

    def __init__(self, table: PublisherTable) -> None:
        where = f"sink {table.label}"
        self._outputs = table.outputs
        self._publications = Publications(queue_messages=table.queue_messages, queue_bytes=table.queue_bytes)
        self._server = Server(
            socket_files.Listener(table.path, table.group, where),
            self._publications,
            max_clients=table.max_clients,
            woken=self._publications.feed,
            where=where,
        )
        self._server.start()

    def write(self, record: Mapping[str, Any], outputs: Sequence[NDArray[Any]] = ()) -> None:
        """Publish a record under the topic ``frame.SOURCE``, or under its kind."""
        if (error := self._server.error) is not None:
            raise OutputError(f"{self._server.where}: its thread ended: {error}") from error
        if not self._publications.subscribers:
            self._publications.pass_over()
            return
        topic = str(record["kind"]) + (f".{record['source']}" if "source" in record else "")
        tensors = outputs if self._outputs else ()
        message = messages.Record(topic, shortened(record), specs_of(tensors))  # type: ignore[arg-type]
        self._publications.publish(topic, framing.framed(messages.encode(message), values_of(tensors)))
        self._server.wake()

    def counters(self) -> dict[str, int]:
        """See the class."""
        told, server = self._publications, self._server
        return {
            "published": told.published,
            "lost": told.lost,
            "subscribers": told.subscribers,
            "disconnected": server.disconnected,
        }

    def close(self) -> None:
        """Send as much as subscribers still accept, and close."""
        self._server.close()

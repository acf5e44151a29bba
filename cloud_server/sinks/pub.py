"""The kind ``pub``: sends every answer to the subscribers of a ZeroMQ PUB socket on this machine.

A message has two frames: the topic, ``answer/BUNDLE/DEVICE``, and the record as JSON. A subscriber that is too slow
misses answers; the gap shows in their ``index``.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
import zmq

from cloud_server.sinks.sink import Sink, SinkTable
from split_model.errors import ConfigError, OutputError

_LOCAL = re.compile(r"ipc:///[^\s]{1,100}|tcp://(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\]):\d{1,5}")
#: A subscription is the beginning of a topic.
_MOST_SUBSCRIPTION_BYTES = 256
_LINGER_MS = 200


class PubTable(SinkTable, frozen=True, tag="pub"):
    """``bind``: ``ipc:///run/cloud-server/answers.sock``, or ``tcp://127.0.0.1:PORT``.

    Every user who may open the socket's file, or use this machine's loopback address, can read the answers. For
    other machines use ``mqtt``, which can be encrypted. ``queue_messages``: kept for each slow subscriber.
    """

    bind: str
    queue_messages: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1000

    def open(self) -> Publisher:
        """Bind the socket."""
        return Publisher(self)


class Publisher(Sink):
    """See `PubTable`."""

    def __init__(self, table: PubTable) -> None:
        if not _LOCAL.fullmatch(table.bind):
            raise ConfigError(
                f"sink {table.label}: bind = {table.bind!r} can be reached from other machines, or is not a "
                "valid address",
                remedy="write ipc:///PATH or tcp://127.0.0.1:PORT; for other machines use a sink of kind 'mqtt'",
            )
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.sndhwm = table.queue_messages
        self._socket.maxmsgsize = _MOST_SUBSCRIPTION_BYTES
        self._socket.ipv6 = "[" in table.bind
        try:
            self._socket.bind(table.bind)
        except zmq.ZMQError as error:
            self.close()
            reason = zmq.strerror(error.errno or 0)
            raise OutputError(f"sink {table.label}: {table.bind}: {reason}", remedy="set another bind") from None

    def write(self, topic: tuple[str, ...], record: bytes) -> None:
        """Publish the record; never waits."""
        self._socket.send_multipart(["/".join(topic).encode(), record], zmq.DONTWAIT)

    def close(self) -> None:
        """Send as much as subscribers still accept, and close."""
        self._context.destroy(linger=_LINGER_MS)

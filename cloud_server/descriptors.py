"""System calls on the TCP connections under libzmq's socket: end one, count its bytes, find new ones.

libzmq has no call that ends one peer's connection. Its monitor reports the descriptor of each connection, and a
duplicate of that can be shut down. At any time libzmq may close the descriptor and the kernel may reuse its number,
so each call first compares the other end's address.
"""

from __future__ import annotations

import os
import resource
import secrets
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import zmq
from zmq.utils.monitor import recv_monitor_message

from cloud_server.connections import Address
from cloud_server.errors import AccessControlError

#: tcpi_bytes_received in struct tcp_info of <linux/tcp.h>.
_RECEIVED = struct.Struct("=Q")
_RECEIVED_OFFSET = 128
_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
_BARRIER_MS = 5_000


def most() -> int:
    """Maximum number of descriptors of this program."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def address_of(fd: int) -> Address | None:
    """Address of a connection's other end, None if it is closed."""
    with _duplicate(fd) as connection:
        return None if connection is None else _peer(connection)


def shut(fd: int, address: Address) -> None:
    """Shut down a connection if the descriptor still leads to this address; libzmq then drops the peer."""
    with _duplicate(fd) as connection:
        if connection is not None and _peer(connection) == address:
            with suppress(OSError):  # the other end has closed it already
                connection.shutdown(socket.SHUT_RDWR)


def received_bytes(fd: int, address: Address) -> int | None:
    """Bytes that the kernel has received on a connection; None if it is closed or the kernel has no count."""
    with _duplicate(fd) as connection:
        if connection is None or _peer(connection) != address:
            return None
        end = _RECEIVED_OFFSET + _RECEIVED.size
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, end)
        return int(_RECEIVED.unpack_from(info, _RECEIVED_OFFSET)[0]) if len(info) == end else None


def fd_of(frame: zmq.Frame) -> int:
    """The descriptor of the connection on which a frame came."""
    return int(str(frame.get("__fd")))


class ConnectionMonitor:
    """Receives libzmq's events of opened and closed connections."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], router: zmq.Socket[bytes]) -> None:
        endpoint = f"inproc://connections-{id(self)}"
        router.monitor(endpoint, _EVENTS)
        self.socket = context.socket(zmq.PAIR)
        self.socket.linger = 0
        self.socket.rcvhwm = 0  # libzmq's I/O thread blocks while this queue is full
        self.socket.connect(endpoint)

    def take(self) -> Iterator[tuple[int, bool]]:
        """Take the events in order: descriptor, and whether it was opened (else closed)."""
        while True:
            try:
                message = recv_monitor_message(self.socket, zmq.DONTWAIT)
            except zmq.Again:
                return
            yield int(message["value"]), message["event"] == zmq.EVENT_ACCEPTED


class IoBarrier:
    """Shows when libzmq's I/O thread has finished the work that it had when `raise_` was called.

    It sends a message to ourselves through that thread, which arrives only after the thread is back in its loop.
    The endpoint's name is random, and a PAIR takes one connection only.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._near, self.socket = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        self._near.linger = self.socket.linger = 0
        endpoint = f"ipc://@cloud-server-{secrets.token_hex(16)}"
        self.socket.bind(endpoint)
        self._near.connect(endpoint)
        self.up = False
        self.raise_()
        if not self.socket.poll(_BARRIER_MS) or not self.passed():
            raise AccessControlError("libzmq's I/O thread does not answer; not starting")

    def raise_(self) -> None:
        """Send the message through the I/O thread."""
        self.up = True
        self._near.send(b"")

    def passed(self) -> bool:
        """Whether the message has arrived since."""
        if self.up:
            with suppress(zmq.Again):
                self.socket.recv(zmq.DONTWAIT)
                self.up = False
        return not self.up


@contextmanager
def _duplicate(fd: int) -> Iterator[socket.socket | None]:
    try:
        copy = os.dup(fd)
    except OSError:  # libzmq has closed it
        yield None
        return
    try:
        found = socket.socket(fileno=copy)
    except OSError:  # its number belongs to a file by now
        os.close(copy)
        yield None
        return
    with found:
        yield found


def _peer(connection: socket.socket) -> Address | None:
    try:
        address: Address = connection.getpeername()
    except OSError:  # not connected any more
        return None
    return address

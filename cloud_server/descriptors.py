"""The TCP connections under libzmq's socket: end one, count its bytes, hear of new ones.

libzmq has no call that ends one peer's connection. Its monitor tells the descriptor of each connection, and a
duplicate of that can be shut down. libzmq may close the descriptor, and the kernel may give its number away, at
any time: so each call compares the other end's address before it does anything.
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
    """How many descriptors this program may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def address_of(fd: int) -> Address | None:
    """The other end of a connection, None where it is gone."""
    with _duplicate(fd) as connection:
        return None if connection is None else _peer(connection)


def shut(fd: int, address: Address) -> None:
    """End a connection, if the descriptor is still the one to this address. libzmq notices and forgets the peer."""
    with _duplicate(fd) as connection:
        if connection is not None and _peer(connection) == address:
            with suppress(OSError):  # the other end was faster
                connection.shutdown(socket.SHUT_RDWR)


def received_bytes(fd: int, address: Address) -> int | None:
    """What the kernel has received on a connection, None where it is gone or the kernel does not tell."""
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
    """Hears from libzmq which connections a socket has."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], router: zmq.Socket[bytes]) -> None:
        endpoint = f"inproc://connections-{id(self)}"
        router.monitor(endpoint, _EVENTS)
        self.socket = context.socket(zmq.PAIR)
        self.socket.linger = 0
        self.socket.rcvhwm = 0  # libzmq's I/O thread waits where this queue is full
        self.socket.connect(endpoint)

    def take(self) -> Iterator[tuple[int, bool]]:
        """Descriptor and whether it was opened (else closed), in the order of the events."""
        while True:
            try:
                message = recv_monitor_message(self.socket, zmq.DONTWAIT)
            except zmq.Again:
                return
            yield int(message["value"]), message["event"] == zmq.EVENT_ACCEPTED


class IoBarrier:
    """Shows when libzmq's one I/O thread has left whatever it was doing when `raise_` was called.

    A message to ourselves through that thread: it arrives only after the thread has come back to its loop. The
    endpoint's name is random, and a PAIR takes one connection only.
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
        """Ask the I/O thread to pass by."""
        self.up = True
        self._near.send(b"")

    def passed(self) -> bool:
        """Whether the I/O thread has passed by since."""
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

"""The device's ZeroMQ sockets and their options, each with its reason. Owned by the link thread.

There is one DEALER under CURVE, its monitor, and a wake-up pair for the other threads.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable
from enum import Enum, auto

import zmq

from edge_runtime.link.families import Families
from edge_runtime.link.states import TransportEvent
from edge_runtime.link.tcp_info import TcpInfo, TcpWatch
from split_model.errors import ConfigError
from split_model.protocol.device import Frames
from split_model.protocol.keys import KeyPair
from split_model.protocol.messages import MAX_HEADER_BYTES


class _Phase(Enum):
    """State of the TCP connection, by the socket's monitor. After a failed handshake it is DOWN at once."""

    DOWN = auto()
    HANDSHAKING = auto()
    UP = auto()


_FAILED_HANDSHAKES = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: TransportEvent.REFUSED,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: TransportEvent.BROKEN_HANDSHAKE,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: TransportEvent.BROKEN_HANDSHAKE,
}


class Transport:
    """A connection to one server that may be away, refuse us, or change its key (``server_keys``: up to two)."""

    def __init__(
        self, address: str, *, keys: KeyPair, server_keys: tuple[bytes, ...], max_answer_bytes: int
    ) -> None:
        self.address = address
        self.public_key = keys.public.decode()
        self._keys = keys
        self._server_keys = itertools.cycle(server_keys)
        self._max_message_bytes = max_answer_bytes + MAX_HEADER_BYTES
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._wake_in = self._context.socket(zmq.PAIR)
        self._wake_out = self._context.socket(zmq.PAIR)
        self._wake_in.bind("inproc://wake")
        self._wake_out.connect("inproc://wake")
        self._wake_out.sndtimeo = 0
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._phase = _Phase.DOWN
        self._port = int(address.rpartition(":")[2])
        self._families = Families(address)
        self._tcp = TcpWatch()

    def open(self) -> None:
        """Open a new socket; it connects and reconnects by itself until `close`. `ConfigError`: bad address."""
        self._open(next(self._server_keys))

    def _open(self, server_key: bytes) -> None:
        socket = self._context.socket(zmq.DEALER)
        # With IPv6 on, libzmq uses the IPv6 addresses of a name if there are any, else its IPv4 addresses, mapped.
        # If a # name has both, it never tries the IPv4 ones. See `Families`.
        socket.ipv6 = self._families.ipv6
        socket.curve_serverkey = self._server_key = server_key
        socket.curve_publickey = self._keys.public
        socket.curve_secretkey = self._keys.secret
        # Without IMMEDIATE, requests written during an outage would all be delivered, stale, after it.
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.linger = 0
        socket.sndtimeo = 0
        # The session's window bounds the bytes under way; these bound the messages as well.
        socket.sndhwm = 256
        socket.rcvhwm = 256
        # A large kernel buffer would hide a slow link, and cancelled requests would be sent all the same.
        socket.setsockopt(zmq.SNDBUF, 64 << 10)
        # A link that comes back is used again within two seconds, although TCP's own retries grow ever rarer: #
        # unacknowledged data end the connection, and new connections are tried, each for a second at most.
        socket.setsockopt(zmq.TCP_MAXRT, 2500)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, 1000)
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        socket.setsockopt(zmq.MAXMSGSIZE, self._max_message_bytes)
        self._monitor = socket.get_monitor_socket(
            zmq.EVENT_CONNECTED
            | zmq.EVENT_DISCONNECTED
            | zmq.EVENT_CONNECT_RETRIED
            | zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        self._phase = _Phase.DOWN
        self._socket = socket
        try:
            socket.connect(self.address)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(
                f"server.address {self.address}: {error}", remedy="write it as tcp://HOST:PORT"
            ) from None

    def close(self) -> None:
        """Close the socket at once, dropping its queued messages."""
        self._tcp.detach()
        if self._socket is not None:
            self._socket.disable_monitor()
            self._socket.close(0)
        if self._monitor is not None:
            self._monitor.close(0)
        self._socket = self._monitor = None

    def terminate(self) -> None:
        """Close everything for good."""
        self.close()
        self._wake_in.close(0)
        self._wake_out.close(0)
        self._context.term()

    def wake(self) -> None:
        """Make `poll` return. May be called from any one thread besides the link thread."""
        if _is_ready(self._wake_out, zmq.POLLOUT):
            self._wake_out.send(b"")

    def poll(self, timeout_s: float, *, wants_to_send: bool) -> list[TransportEvent]:
        """Wait for messages, room to send, or `wake`; returns the connection's events meanwhile."""
        poller = zmq.Poller()
        poller.register(self._wake_in, zmq.POLLIN)
        if self._socket is not None and self._monitor is not None:
            poller.register(self._monitor, zmq.POLLIN)
            poller.register(self._socket, zmq.POLLIN | (zmq.POLLOUT if wants_to_send else 0))
        poller.poll(int(timeout_s * 1e3))
        while _is_ready(self._wake_in, zmq.POLLIN):
            self._wake_in.recv()
        return list(self._monitor_events())

    def send(self, frames: Frames) -> bool:
        """Send without waiting; False where the socket is full or not connected."""
        socket = self._socket
        if socket is None or not _is_ready(socket, zmq.POLLOUT):
            return False
        header, payload = frames
        try:
            if payload is None:
                socket.send(header)
            else:
                socket.send(header, zmq.SNDMORE)
                socket.send(payload, copy=False)
        except zmq.Again:  # the connection was lost between the check and the send
            return False
        return True

    def tcp(self) -> TcpInfo | None:
        """The kernel's figures of the connection; None without a connection or without TCP_INFO."""
        return self._tcp.read()

    def receive(self) -> Iterable[list[memoryview]]:
        """Receive all waiting messages, each as a list of frames (views of ZeroMQ's own buffers)."""
        while self._socket is not None and _is_ready(self._socket, zmq.POLLIN):
            yield [frame.buffer for frame in self._socket.recv_multipart(copy=False)]

    def _monitor_events(self) -> Iterable[TransportEvent]:
        while self._monitor is not None and _is_ready(self._monitor, zmq.POLLIN):
            # Event and value, then the endpoint in a frame of its own. (pyzmq's reader of these imports asyncio.)
            number, value = struct.unpack("=Hi", self._monitor.recv_multipart()[0])
            event = zmq.Event(number)
            if event == zmq.EVENT_CONNECT_RETRIED:
                if self._phase is _Phase.DOWN and self._families.failed():
                    self.close()
                    self._open(self._server_key)
                    return
                continue
            phase, self._phase = self._phase, _Phase.DOWN
            if event != zmq.EVENT_HANDSHAKE_SUCCEEDED:  # our duplicate descriptor would keep a dead connection open
                self._tcp.detach()
            if event == zmq.EVENT_CONNECTED:
                self._phase = _Phase.HANDSHAKING
                self._families.connected()
                self._tcp.attach(value, port=self._port)
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._phase = _Phase.UP
                yield TransportEvent.READY
            elif event in _FAILED_HANDSHAKES:
                yield _FAILED_HANDSHAKES[event]
            elif phase is _Phase.UP:
                yield TransportEvent.LOST
            elif phase is _Phase.HANDSHAKING:  # closed without an error: the behaviour of a server with another key
                yield TransportEvent.BROKEN_HANDSHAKE


def _is_ready(socket: zmq.Socket[bytes], what: int) -> bool:
    return bool(int(socket.getsockopt(zmq.EVENTS)) & what)

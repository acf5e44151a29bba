"""Serves a Unix socket from one thread: accepts, reads, writes, and ends connections that harm others.

A `Service` and its `Peer` decide on the messages; this module has the socket, the poller and the clock.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable

from edge_runtime.local_api.peer import Peer, Service, User
from edge_runtime.local_api.shares import Shares
from edge_runtime.local_api.socket_files import Listener
from split_model.service.stoppable_thread import StoppableThread
from split_model.service.throttle import PER_FRAME

log = logging.getLogger(__name__)

#: Seconds between two checks for clients that take too long, while there are any that could.
_LOOK_S = 0.5
#: Seconds to send the queued answers at the end.
_FLUSH_S = 0.5
#: Limits of one turn: new connections, bytes and reads.
_ACCEPTS, _TURN_BYTES, _TURN_READS = 8, 256 << 10, 16
#: Maximum buffers in one call of sendmsg.
_MAX_PARTS = 64
#: Seconds without accepting connections when file descriptors or memory run out.
_SHORT_OF_S = 1.0
_SHORT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_CREDENTIALS = struct.Struct("3i")


class Server:
    """A thread that serves ``service`` at ``listener``, to ``max_clients`` connections, shared among users.

    ``woken`` runs in this thread after `wake`. ``where`` opens each line in the log. After `close`, and if the
    thread fails (``error``), every connection is closed.
    """

    def __init__(
        self, listener: Listener, service: Service, *, max_clients: int, woken: Callable[[], None], where: str
    ) -> None:
        self.error: BaseException | None = None
        self.disconnected = 0
        self._listener = listener
        self._service = service
        self._woken = woken
        self.where = where
        self._places = Shares(max_clients)
        self._users: set[int] = set()
        self._peers: dict[socket.socket, Peer] = {}
        self._masks: dict[socket.socket, int] = {}
        self._accept_from_s = 0.0
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener.socket, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._thread = StoppableThread(f"clients-{where}".replace(" ", "-"), self._run, wake=self.wake)

    @property
    def clients(self) -> int:
        """Number of open connections."""
        return len(self._peers)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Make the server's thread call ``woken``. From any thread."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full: the thread will wake anyway
            os.write(self._wake_write, b"\0")

    def close(self) -> None:
        """Send the queued answers, for a short while, and remove the socket, unless the thread hangs."""
        if not self._thread.stop():
            return
        self._listener.close()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _run(self) -> None:
        try:
            while not self._thread.stopping.is_set():
                self._turn(self._timeout_s())
            self._flush()
        except BaseException as error:  # noqa: BLE001  whoever uses the server raises it, whatever it is
            self.error = error
        finally:
            for connection in list(self._peers):
                self._hang_up(connection)

    def _timeout_s(self) -> float | None:
        waits = self._accept_from_s or any(peer.waits for peer in self._peers.values())
        return _LOOK_S if waits else None

    def _flush(self) -> None:
        until_s = time.monotonic() + _FLUSH_S
        if not self._accept_from_s:
            self._selector.unregister(self._listener.socket)
        self._accept_from_s = 0.0
        # Messages that have arrived still get their reply.
        while self._turn(0.0) and time.monotonic() < until_s - _FLUSH_S / 2:
            pass
        self._woken()
        for connection, peer in list(self._peers.items()):
            peer.ending = True
            self._write(connection, peer)
        while self._peers and (left_s := until_s - time.monotonic()) > 0:
            self._turn(left_s)

    def _turn(self, timeout_s: float | None) -> bool:
        """Wait, and give every ready connection its turn. Returns whether any was ready."""
        ready = self._selector.select(timeout_s)
        for key, events in ready:
            if key.fileobj is self._listener.socket:
                self._accept()
            elif key.fd == self._wake_read:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
                self._woken()
            elif isinstance(key.fileobj, socket.socket) and (peer := self._peers.get(key.fileobj)) is not None:
                if events & selectors.EVENT_READ:
                    self._read(key.fileobj, peer)
                self._write(key.fileobj, peer)
        now_s = time.monotonic()
        for connection, peer in list(self._peers.items()):
            if peer.waits:
                peer.check(now_s)
            if peer.ending or (self._masks[connection] == selectors.EVENT_READ and not peer.wants_read):
                self._write(connection, peer)
        if self._accept_from_s and now_s >= self._accept_from_s:
            self._accept_from_s = 0.0
            self._selector.register(self._listener.socket, selectors.EVENT_READ)
        return bool(ready)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                connection, _ = self._listener.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _SHORT_OF:
                    log.warning("%s: no connection can be accepted: %s", self.where, error, extra=PER_FRAME)
                    self._selector.unregister(self._listener.socket)
                    self._accept_from_s = time.monotonic() + _SHORT_OF_S
                    return
                continue  # the client left before it was accepted
            connection.setblocking(False)
            self._welcome(connection)

    def _welcome(self, connection: socket.socket) -> None:
        """Accept a connection, or turn it away if there are too many."""
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        peer = Peer(User(pid, uid), self._service, now_s=time.monotonic())
        if self._places.fits(uid):
            if uid not in self._users:
                self._users.add(uid)
                log.info("%s: the first connection of user %d, by process %d", self.where, uid, pid)
            self._places.take(uid)
            self._peers[connection] = peer
            self._masks[connection] = selectors.EVENT_READ
            self._selector.register(connection, selectors.EVENT_READ)
            return
        self.disconnected += 1
        text = f"{self._places.held(uid)} connections of user {uid}, {self._places.total} in all"
        log.warning(
            "%s: a connection of user %d is turned away: max_clients = %d, shared among users",
            self.where, uid, self._places.limit, extra=PER_FRAME,
        )  # fmt: skip
        peer.refuse(f"{text}; max_clients = {self._places.limit} is shared among users; close some")
        with contextlib.suppress(OSError), connection:
            while buffers := peer.outgoing():  # the buffer of a new connection has room for this
                peer.took(connection.sendmsg(buffers), time.monotonic())

    def _read(self, connection: socket.socket, peer: Peer) -> None:
        """Read to the end of a message, or one turn's share of a long one."""
        bytes_left = _TURN_BYTES
        for _ in range(_TURN_READS):
            if not peer.wants_read or bytes_left <= 0:
                return
            try:
                count = connection.recv_into(peer.room())
            except BlockingIOError:
                return
            except OSError:
                count = 0
            if not count:
                self._hang_up(connection)
                return
            bytes_left -= count
            peer.filled(count, time.monotonic())
            if peer.between:
                return  # the poller reports whether there is more

    def _write(self, connection: socket.socket, peer: Peer) -> None:
        """Write as much as the client accepts; close the connection if that was the last message."""
        if connection not in self._peers:
            return
        while buffers := peer.outgoing():
            try:
                count = connection.sendmsg(buffers[:_MAX_PARTS])
            except BlockingIOError:
                peer.took(0, time.monotonic())
                break
            except OSError:
                self._hang_up(connection)
                return
            peer.took(count, time.monotonic())
        if peer.ending and not peer.outgoing():
            self._hang_up(connection)
            return
        mask = selectors.EVENT_WRITE if peer.outgoing() else selectors.EVENT_READ
        if mask != self._masks[connection]:
            self._masks[connection] = mask
            self._selector.modify(connection, mask)

    def _hang_up(self, connection: socket.socket) -> None:
        peer = self._peers.pop(connection)
        del self._masks[connection]
        self._selector.unregister(connection)
        connection.close()
        self._places.give(peer.user.uid)
        peer.close()
        if peer.trouble:
            self.disconnected += 1
            log.warning("%s: %s is disconnected: %s", self.where, peer.user, peer.trouble, extra=PER_FRAME)

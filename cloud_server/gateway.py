"""The server's sockets and its main loop: handshakes, messages, results, sweeps. Single-threaded.

While this loop does not run, no handshake is answered and no message read: it fails closed. libzmq delivers only
whole messages, with any number of frames. So a connection with a too long message is ended by its descriptor,
during its arrival (`Connections.sweep`) or right after it.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable
from contextlib import closing

import zmq

from cloud_server import descriptors
from cloud_server.access import SELF_TEST_S, Gatekeeper, self_test, user_of
from cloud_server.allow_list import AllowList
from cloud_server.connections import Connection, Connections, Reason
from cloud_server.descriptors import ConnectionMonitor
from cloud_server.folder_watch import FolderWatch
from cloud_server.listening import bind, configure
from cloud_server.mailbox import Mailbox
from cloud_server.outbox import Outbox, send_replies
from cloud_server.sessions import Reply, Sessions
from cloud_server.wakeup import Source, Wakeup
from split_model.protocol import messages as wire
from split_model.protocol.keys import KeyPair
from split_model.service.throttle import PER_FRAME

_log = logging.getLogger(__name__)

#: Maximum messages of devices in one turn, before handshakes and results get theirs.
_BATCH = 64
_SWEEP_S = 0.5
#: Seconds between two checks of the allow-list without an event of the kernel, while messages come.
_LOOK_S = 0.1
#: Seconds between a part of a request and the next look at the socket: a wake-up costs more than reading a part.
_GATHER_S = 0.2e-3
#: Seconds of this thread and of libzmq's to read a message, before its sender is known.
_READING_S = 30e-6
_FAREWELL_MS = 500
_ROUTING_ID_BYTES = 16
#: A flag as a plain integer: converting pyzmq's enum takes longer than receiving a frame.
_DONTWAIT = int(zmq.DONTWAIT)


class Gateway:
    """Owns the sockets. The constructor proves that access control works; `run` serves until `stop`."""

    def __init__(
        self,
        *,
        listen: str,
        keys: KeyPair,
        allow_list: AllowList,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
        self_test_s: float = SELF_TEST_S,
    ) -> None:
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._stop = False
        self.mailbox = Mailbox()
        self.allow_list = allow_list
        self.connections = Connections(_new_routing_id, descriptors=descriptors.most())
        self._heeded_version = 0
        self._looked_s = -math.inf
        #: Sender of the last messages of this batch, their number, their frames' sizes, and the replies to them.
        self._sender: Connection | None = None
        self._began_s = 0.0
        self._received = 0  # messages of the last batch
        self._sent_messages = 0
        self._sizes: list[int] = []
        self._replies: list[Reply] = []
        self._list_watch = FolderWatch(allow_list.path.resolve().parent)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)  # `IoBarrier` relies on this
        self._router = self._context.socket(zmq.ROUTER)
        self._only_messages: set[Source] = {self._router}
        self._outbox = Outbox(self._router, self.connections)
        try:
            self._monitor = ConnectionMonitor(self._context, self._router)
            self.gate = Gatekeeper(self._context, allow_list, self.connections, clock)
            configure(self._router, keys, ipv6="[" in listen)
            allow_list.refresh()
            self_test(self._context, self._router, self.gate, self.connections, keys.public, within_s=self_test_s)
            self.endpoint = bind(self._router, listen)
        except BaseException:
            self.close()
            raise

    def stop(self) -> None:
        """Make `run` return soon; safe from any thread, and from a signal handler."""
        self._stop = True
        self.mailbox.wake()

    def run(self, sessions: Sessions, *, drain_s: float, on_sweep: Callable[[], list[Reply]]) -> None:
        """Serve until `stop`, then answer the accepted requests, for ``drain_s`` at most.

        ``on_sweep`` is called twice a second; its returned replies are sent.
        """
        fds = [fd for fd in (self.mailbox.fd, self._list_watch.fd) if fd is not None]
        wakeup = Wakeup(self._router, [*self.gate.sockets, self._monitor.socket], fds)
        with closing(wakeup):
            self._serve(wakeup, sessions, drain_s, on_sweep)

    def _serve(
        self, wakeup: Wakeup, sessions: Sessions, drain_s: float, on_sweep: Callable[[], list[Reply]]
    ) -> None:
        sweep_s = self._clock()
        drained_s: float | None = None
        while True:
            now_s = self._clock()
            wake_s = min(sweep_s, self._outbox.next_s(), sessions.next_turn_s(now_s))
            if wake_s > now_s and self._received < _BATCH and sessions.gathering:
                time.sleep(_GATHER_S)
                now_s += _GATHER_S
            self._do_ready(sessions, wakeup.wait(max(0.0, wake_s - now_s)))
            now_s = self._clock()
            if now_s >= sweep_s:
                sweep_s = now_s + _SWEEP_S
                self._sweep(sessions, now_s)
                send_replies(self._router, sessions, on_sweep())
            if self._stop and drained_s is None:
                drained_s, sessions.draining = now_s + drain_s, True
                _log.info("stopping: %d requests to answer first", sessions.open_jobs)
            if drained_s is not None and (sessions.open_jobs == 0 or now_s >= drained_s):
                return

    def close(self) -> None:
        """Close the sockets after a short time for the last answers."""
        if self._context.closed:
            return
        self._router.disable_monitor()
        self._router.close(linger=_FAREWELL_MS)
        self._context.destroy(linger=0)  # all other sockets
        self.mailbox.close()
        self._list_watch.close()

    def _do_ready(self, sessions: Sessions, ready: set[Source]) -> None:
        """Process everything that waits: connections, handshakes, results, messages, and short tails."""
        if ready != self._only_messages:
            self._do_others(sessions, ready)
        self._received = 0
        if self._router in ready:
            self._received = self._receive(sessions)
            self._settle(sessions)
        now_s = self._clock()
        self._outbox.send_when_paid(sessions, sessions.turn(now_s), now_s)
        self._outbox.send_due(sessions, now_s)

    def _do_others(self, sessions: Sessions, ready: set[Source]) -> None:
        if self._monitor.socket in ready or any(socket in ready for socket in self.gate.sockets):
            self._hear_of_connections(sessions)  # before their handshakes are answered
            self.gate.answer_all()
        if self.mailbox.fd in ready:
            for outcome in self.mailbox.take():
                self._outbox.send_when_paid(sessions, sessions.finished(outcome), self._clock())
        if self._list_watch.fd in ready:
            self._list_watch.clear()  # else it stays readable, and no wait lasts until the list is read
            self._looked_s = -math.inf

    def _receive(self, sessions: Sessions) -> int:
        """Take the messages that are here, up to a batch; returns how many those were."""
        now_s = self._clock()
        if now_s - self._looked_s >= _LOOK_S:
            self._heed_allow_list(sessions, now_s)
        receive = self._router.recv
        for number in range(_BATCH):
            try:
                routing_id = receive(_DONTWAIT, copy=False)
            except zmq.Again:
                return number
            frames: list[zmq.Frame] = []
            part = routing_id
            while part.more and len(frames) < wire.MAX_FRAMES:
                part = receive(_DONTWAIT, copy=False)
                frames.append(part)
            if part.more:
                self._too_many_frames(sessions, routing_id.bytes, part)
            elif frames:
                self._message(sessions, routing_id.bytes, frames)
        return _BATCH

    def _message(self, sessions: Sessions, routing_id: bytes, frames: list[zmq.Frame]) -> None:
        connection = self.connections.find(routing_id)
        if connection is None:  # its first message; the id was made for a key, and the sender must have proved it
            user_id = user_of(frames[-1])
            if user_id is None:
                sessions.counters.unauthenticated += 1
                return
            connection = self._connection_of(sessions, routing_id, user_id, frames[-1])
        if connection is None or connection.ended:
            sessions.counters.strays += 1
            return
        if connection is not self._sender:
            if self._sender is None:
                self._began_s = self._cpu_clock()
            self._settle(sessions)  # where it charges a key, it reads that clock for the next one
            self._sender = connection
        parts = [frame.buffer for frame in frames]
        self._sizes += [part.nbytes for part in parts]
        self._sent_messages += 1
        self._replies += sessions.receive(routing_id, connection.key, parts, self._clock())

    def _settle(self, sessions: Sessions) -> None:
        """Charge the sender of the last messages for all of them, and send the replies."""
        connection, replies, sizes_bytes, messages = self._sender, self._replies, self._sizes, self._sent_messages
        if connection is None:
            return
        self._sender, self._replies, self._sizes, self._sent_messages = None, [], [], 0
        now_s = self._clock()
        delay_s = self.connections.spend(connection, sizes_bytes, now_s, messages=messages)
        if delay_s is None:
            self._end(sessions, self.connections.of_key(connection.key), "budget")
            self._began_s = self._cpu_clock()
            return
        self._outbox.send_later(sessions, replies, delay_s, now_s)
        ended_s = self._cpu_clock()
        self.connections.spend_gateway(connection, ended_s - self._began_s + messages * _READING_S, now_s)
        self._began_s = ended_s

    def _connection_of(
        self, sessions: Sessions, routing_id: bytes, user_id: str, frame: zmq.Frame
    ) -> Connection | None:
        connection = self.connections.find(routing_id)
        if connection is not None:
            return connection
        self._hear_of_connections(sessions)
        return self.connections.meet(routing_id, user_id, descriptors.fd_of(frame), self._clock())

    def _too_many_frames(self, sessions: Sessions, routing_id: bytes, part: zmq.Frame) -> None:
        """End all connections of the key at once; the rest of the message is read and dropped."""
        user_id = user_of(part)
        if user_id is not None and self._connection_of(sessions, routing_id, user_id, part) is not None:
            self._end(sessions, self.connections.shut_out(user_id, self._clock()), "frames")
        while part.more:
            part = self._router.recv(copy=False)

    def _hear_of_connections(self, sessions: Sessions) -> None:
        """Process opened and closed connections. The place of a closed one is free at once for its device."""
        for fd, opened in self._monitor.take():
            gone = self.connections.closed(fd)
            if gone:
                sessions.drop(gone)
            address = descriptors.address_of(fd) if opened else None
            if address is not None:
                self.connections.opened(fd, address, self._clock())
        self._end(sessions, self.connections.crowded_out(), "crowded")

    def _end(self, sessions: Sessions, connections: list[Connection], reason: Reason) -> None:
        for connection in connections:
            connection.ended = True
            descriptors.shut(connection.fd, connection.address)
            sessions.drop(connection.routing_id)
            sessions.counters.end(reason)
            if reason != "revoked":
                name = self.allow_list.name_of(connection.key) or "a device"
                _log.warning("ended the connection of %s: %s", name, _REASONS[reason], extra=PER_FRAME)

    def _heed_allow_list(self, sessions: Sessions, now_s: float) -> None:
        """Read the allow-list if it has changed; it may have been read for a handshake already."""
        self._looked_s = now_s
        self._list_watch.clear()  # clear the events before the list is read
        self.allow_list.refresh()
        if self.allow_list.version == self._heeded_version:
            return
        self._heeded_version = self.allow_list.version
        self.connections.revoke(self.gate.admits, self._clock())
        send_replies(self._router, sessions, sessions.revoke())

    def _sweep(self, sessions: Sessions, now_s: float) -> None:
        sessions.sweep(now_s)
        self._heed_allow_list(sessions, now_s)
        self.connections.limit(sessions.budgets, now_s)
        sessions.counters.delayed = self.connections.delayed
        overdue = self.connections.sweep(now_s, greeted=sessions.greeted, received_bytes=_received_bytes)
        for connection, reason in overdue:
            self._end(sessions, [connection], reason)


_REASONS: dict[Reason, str] = {
    "frames": "it sent a message with more frames than the protocol has",
    "budget": "it sends more than limits.device_mib_per_s, device_messages_per_s or device_gateway_percent let it, "
    "and does not wait for us",
    "backlog": "it sends a message without an end, or more than limits.window_kib allows",
    "crowded": "too many connections have sent no message, most of them from its address",
    "no_hello": "it sent no hello in time, or was not admitted",
}


def _new_routing_id() -> bytes:
    return secrets.token_bytes(_ROUTING_ID_BYTES)


def _received_bytes(connection: Connection) -> int | None:
    return descriptors.received_bytes(connection.fd, connection.address)

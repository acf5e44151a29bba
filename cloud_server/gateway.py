"""The server's sockets and its one loop: handshakes, messages, results, sweeps. Only this thread touches them.

While this loop does not run, no handshake is answered and no message read: it fails closed.
A single message with endless frames is beyond what libzmq lets us bound; only an allowed device could send one.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import zmq

from cloud_server.access import Gatekeeper, endpoint_of, secure, self_test, user_of
from cloud_server.allow_list import AllowList
from cloud_server.engine import Outcome
from cloud_server.errors import ListenError
from cloud_server.sessions import Hub, Reply
from split_model.protocol import messages as wire
from split_model.protocol.keys import KeyPair

_log = logging.getLogger(__name__)

#: Messages taken from devices before handshakes and results get their turn again.
_BATCH = 64
_SWEEP_S = 0.5
#: Room for CURVE's and ZMTP's framing around the largest chunk.
_FRAMING_BYTES = 1 << 10
#: Replies waiting for one device: an acknowledgement for every chunk of a window, and the answers.
_SEND_MESSAGES = 128
_RECEIVE_MESSAGES = 64
_FAREWELL_MS = 500


class Mailbox:
    """Where worker threads leave outcomes for the gateway; ``fd`` becomes readable when there are some."""

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write_fd, False)
        self._outcomes: deque[Outcome] = deque()
        self._lock = threading.RLock()  # reentrant: a signal may arrive while this very thread holds it
        self._closed = False

    def put(self, outcome: Outcome) -> None:
        """Leave an outcome; safe from any thread."""
        self._outcomes.append(outcome)
        self.wake()

    def wake(self) -> None:
        """Wake the gateway; safe from any thread, and from a signal handler."""
        with self._lock, suppress(BlockingIOError):  # the pipe may be full of wake-ups already
            if not self._closed:
                os.write(self._write_fd, b"\0")

    def take(self) -> list[Outcome]:
        """All outcomes so far."""
        with suppress(BlockingIOError):  # nobody woke us; there may be outcomes all the same
            os.read(self.fd, 1 << 16)
        taken = []
        while self._outcomes:
            taken.append(self._outcomes.popleft())
        return taken

    def close(self) -> None:
        """Outcomes that come later are dropped."""
        with self._lock:
            self._closed = True
            os.close(self.fd)
            os.close(self._write_fd)


class Gateway:
    """Owns the sockets. Making one proves that access control works; `run` serves until told to stop."""

    def __init__(
        self,
        *,
        listen: str,
        keys: KeyPair,
        allow_list: AllowList,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._stop = False
        self.mailbox = Mailbox()
        self.allow_list = allow_list
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self.gate = Gatekeeper(self._context, allow_list)
        try:
            _configure(self._router, keys, ipv6="[" in listen)
            allow_list.refresh()
            self_test(self._context, self._router, self.gate, keys.public)
            self.endpoint = _bind(self._router, listen)
        except BaseException:
            self.close()
            raise

    def stop(self) -> None:
        """Make `run` return soon; safe from any thread, and from a signal handler."""
        self._stop = True
        self.mailbox.wake()

    def run(self, hub: Hub, *, drain_s: float, on_sweep: Callable[[], list[Reply]]) -> None:
        """Serve until `stop`, then answer what was accepted, for ``drain_s`` at most.

        ``on_sweep`` is called twice a second; what it returns is sent.
        """
        poller = zmq.Poller()
        for source in (self._router, self.gate.socket, self.mailbox.fd):
            poller.register(source, zmq.POLLIN)
        sweep_s = self._clock()
        drained_s: float | None = None
        while True:
            poller.poll(max(0, int((sweep_s - self._clock()) * 1000)) + 1)
            self.gate.answer_all()
            for outcome in self.mailbox.take():
                self._send_all(hub, hub.finished(outcome))
            self._receive(hub)
            now_s = self._clock()
            if now_s >= sweep_s:
                sweep_s = now_s + _SWEEP_S
                self._sweep(hub, now_s)
                self._send_all(hub, on_sweep())
            if self._stop and drained_s is None:
                drained_s, hub.draining = now_s + drain_s, True
                _log.info("stopping: %d requests to answer first", hub.open_jobs)
            if drained_s is not None and (hub.open_jobs == 0 or now_s >= drained_s):
                return

    def close(self) -> None:
        """Close the sockets, with a moment for the last answers to leave."""
        if self._context.closed:
            return
        self._router.close(linger=_FAREWELL_MS)
        self.gate.close()
        self._context.term()
        self.mailbox.close()

    def _receive(self, hub: Hub) -> None:
        for _ in range(_BATCH):
            if not self._router.poll(0):
                return
            routing_id, *frames = self._router.recv_multipart(zmq.DONTWAIT, copy=False)
            user_id = user_of(frames[-1]) if frames else None
            if user_id is None:
                hub.counters.unauthenticated += 1
                continue
            if self.allow_list.refresh():
                self._send_all(hub, hub.revoke())
            parts = [frame.buffer for frame in frames]
            self._send_all(hub, hub.receive(routing_id.bytes, user_id, parts, self._clock()))

    def _sweep(self, hub: Hub, now_s: float) -> None:
        hub.sweep(now_s)
        if self.allow_list.refresh():
            self._send_all(hub, hub.revoke())

    def _send_all(self, hub: Hub, replies: list[Reply]) -> None:
        for reply in replies:
            parts = [reply.routing_id, wire.encode(reply.message)]
            if reply.payload is not None:
                parts.append(reply.payload)
            try:
                self._router.send_multipart(parts, zmq.DONTWAIT, copy=False)
            except zmq.Again:
                hub.counters.congested += 1
                hub.drop(reply.routing_id)
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                hub.counters.unroutable += 1
                hub.drop(reply.routing_id)


def _configure(router: zmq.Socket[bytes], keys: KeyPair, *, ipv6: bool) -> None:
    """Every option of the listening socket; what each is for is in the design's section on the wire."""
    secure(router, keys)
    router.linger = 0
    router.maxmsgsize = wire.MAX_CHUNK_BYTES + wire.MAX_HEADER_BYTES + _FRAMING_BYTES
    router.sndtimeo = 0
    router.sndhwm = _SEND_MESSAGES
    router.rcvhwm = _RECEIVE_MESSAGES
    router.handshake_ivl = 5_000
    router.router_mandatory = True
    router.router_handover = False
    router.tcp_keepalive = 1
    router.tcp_keepalive_idle = 10
    router.tcp_keepalive_intvl = 5
    router.tcp_keepalive_cnt = 3
    router.setsockopt(zmq.TCP_MAXRT, 30_000)  # a peer that vanished with replies on the way to it
    router.ipv6 = ipv6


def _bind(router: zmq.Socket[bytes], listen: str) -> str:
    try:
        router.bind(listen)
    except zmq.ZMQError as error:
        reason = zmq.strerror(error.errno or 0)
        raise ListenError(
            f"{listen}: {reason}", remedy="change [server] listen or stop who listens there"
        ) from None
    return endpoint_of(router)

"""A device's and a server's protocol session with ZeroMQ and CURVE between them: what really leaves for a payload.

Both ends are in this thread, on the loopback interface. The server's end keeps the bytes of each request as they
arrived, reassembled by the product's own session.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator

import zmq

from split_model.bundle import Bundle
from split_model.errors import BackendError
from split_model.protocol import messages as wire
from split_model.protocol import server as protocol
from split_model.protocol.device import Answered, DeviceSession

_PATIENCE_S = 30.0
_POLL_MS = 20


def empty_answer(request_id: int) -> wire.Answer:
    """An answer without outputs, as a server gives it that only listens."""
    return wire.Answer(request_id=request_id, tensors=(), timed_bytes=0, receive_s=0.0, queue_s=0.0, tail_s=0.0)


class Wire:
    """One device connected to one server; made by `connected`."""

    def __init__(self, bundle: Bundle) -> None:
        self._identity = bundle.identity
        self._arrived: list[bytes] = []
        self._peer: protocol.PeerSession | None = None
        self._offers = (
            wire.Offer(
                identity=bundle.identity,
                name=bundle.manifest.name,
                cuts=tuple(cut.index for cut in bundle.manifest.cuts),
            ),
        )
        self._boot_id = secrets.token_hex(16)
        self._session = DeviceSession(boot_id=self._boot_id, software="split-model audit")
        self._requests = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._server = self._context.socket(zmq.ROUTER)
        public, secret = zmq.curve_keypair()
        self._server.curve_server = True
        self._server.curve_secretkey = secret
        port = self._server.bind_to_random_port("tcp://127.0.0.1")
        self._device = self._context.socket(zmq.DEALER)
        self._device.curve_serverkey = public
        self._device.curve_publickey, self._device.curve_secretkey = zmq.curve_keypair()
        self._device.connect(f"tcp://127.0.0.1:{port}")
        self._session.connected()

    def send(self, cut: int, payload: memoryview) -> bytes:
        """Send one request, and return the payload that the server has of it.

        Raises:
            BackendError: It does not come.

        """
        self._requests += 1
        due_at_s = time.monotonic() + _PATIENCE_S
        request = wire.Request(
            request_id=self._requests,
            boot_id=self._boot_id,
            version=wire.VERSIONS[0],
            bundle=self._identity,
            cut=cut,
            release=wire.NoRelease(),
            total_bytes=len(payload),
            due_in_s=_PATIENCE_S,
        )
        self._arrived.clear()
        self._session.submit(request, payload, due_at_s=due_at_s)
        while not self._turn():
            if time.monotonic() > due_at_s:
                raise BackendError("the audit's own connection on this machine is stuck", remedy="try again")
        return self._arrived[-1]

    def close(self) -> None:
        """Close both ends."""
        self._context.destroy(linger=0)

    def _turn(self) -> bool:
        """Move what can be moved; whether the request has been answered."""
        while (message := self._session.next_message(time.monotonic())) is not None:
            header, chunk = message
            self._device.send_multipart([header] if chunk is None else [header, chunk])
        answered = False
        if self._server.poll(_POLL_MS if not self._device.poll(0) else 0):
            peer, *parts = self._server.recv_multipart()
            self._serve(peer, [memoryview(part) for part in parts])
        while self._device.poll(0):
            frames = [memoryview(part) for part in self._device.recv_multipart()]
            events = self._session.receive(frames, time.monotonic())
            answered |= any(isinstance(event, Answered) for event in events)
        return answered

    def _serve(self, peer: bytes, parts: list[memoryview]) -> None:
        if self._peer is None:
            self._peer = protocol.PeerSession(
                user_id="audit",
                boot_id="audit",
                offers=self._offers,
                admit=lambda _: None,
                limits=protocol.Limits(),
                now_s=time.monotonic(),
            )
        replies, events = self._peer.receive(parts, time.monotonic())
        for reply in replies:
            self._server.send_multipart([peer, wire.encode(reply)])
        for event in events:
            if isinstance(event, protocol.Arrived):
                self._arrived.append(bytes(event.payload))
                answer = empty_answer(event.request.request_id)
                self._server.send_multipart([peer, wire.encode(answer), b""])


@contextlib.contextmanager
def connected(bundle: Bundle) -> Iterator[Wire]:
    """A connected pair, closed at the end of the block."""
    made = Wire(bundle)
    try:
        yield made
    finally:
        made.close()

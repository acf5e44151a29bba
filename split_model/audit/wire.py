"""A device's and a server's protocol session with ZeroMQ and CURVE between them: what really leaves for a payload.

Both ends are in this thread, on the loopback interface. The server's end keeps the bytes of each request as they
arrived, reassembled by the product's own session.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator

import zmq

from split_model.bundle import Bundle
from split_model.errors import BackendError
from split_model.protocol import messages as wire
from split_model.protocol import server as protocol
from split_model.protocol.device import Answered, DeviceSession

PATIENCE_S = 30.0
_POLL_MS = 20


class ServerEnd:
    """A server that takes any key, tells of each payload when it is whole, and answers it with nothing.

    Args:
        context: Of its socket.
        offer: The bundle that it says it has.
        arrived: Called with each payload, before it is answered.

    Attributes:
        address: Where it listens on the loopback interface.
        public: Its key.

    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], offer: wire.Offer, arrived: Callable[[bytes], None]
    ) -> None:
        self._offer, self._arrived = offer, arrived
        self._sessions: dict[bytes, protocol.PeerSession] = {}
        self._socket = context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self.public, secret = zmq.curve_keypair()
        self._socket.curve_server = True
        self._socket.curve_secretkey = secret
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.address = f"tcp://127.0.0.1:{port}"

    def serve(self, wait_ms: int) -> None:
        """Take one message, if one comes within that time."""
        if self._socket.poll(wait_ms):
            peer, *parts = self._socket.recv_multipart()
            self._receive(peer, [memoryview(part) for part in parts])

    def close(self) -> None:
        """Close the socket."""
        self._socket.close(0)

    def _receive(self, peer: bytes, parts: list[memoryview]) -> None:
        session = self._sessions.get(peer)
        if session is None:
            session = self._sessions[peer] = protocol.PeerSession(
                user_id="audit",
                boot_id="audit",
                offers=(self._offer,),
                admit=lambda _: None,
                limits=protocol.Limits(),
                now_s=time.monotonic(),
            )
        replies, events = session.receive(parts, time.monotonic())
        for reply in replies:
            self._socket.send_multipart([peer, wire.encode(reply)])
        for event in events:
            if isinstance(event, protocol.Arrived):
                self._arrived(bytes(event.payload))
                answer = wire.Answer(
                    request_id=event.request.request_id,
                    tensors=(),
                    timed_bytes=0,
                    receive_s=0.0,
                    queue_s=0.0,
                    tail_s=0.0,
                )
                self._socket.send_multipart([peer, wire.encode(answer), b""])


def request_of(payload: memoryview, *, number: int, boot_id: str, bundle: str, cut: int) -> wire.Request:
    """The request that announces a payload."""
    return wire.Request(
        request_id=number,
        boot_id=boot_id,
        version=wire.VERSIONS[0],
        bundle=bundle,
        cut=cut,
        release=wire.NoRelease(),
        total_bytes=len(payload),
        due_in_s=PATIENCE_S,
    )


class Wire:
    """One device connected to one server; made by `connected`."""

    def __init__(self, bundle: Bundle) -> None:
        self._identity = bundle.identity
        self._arrived: list[bytes] = []
        self._boot_id = secrets.token_hex(16)
        self._session = DeviceSession(boot_id=self._boot_id, software="split-model audit")
        self._requests = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        offer = wire.Offer(
            identity=bundle.identity,
            name=bundle.manifest.name,
            cuts=tuple(cut.index for cut in bundle.manifest.cuts),
        )
        self._server = ServerEnd(self._context, offer, self._arrived.append)
        self._device = self._context.socket(zmq.DEALER)
        self._device.curve_serverkey = self._server.public
        self._device.curve_publickey, self._device.curve_secretkey = zmq.curve_keypair()
        self._device.connect(self._server.address)
        self._session.connected()

    def send(self, cut: int, payload: memoryview) -> bytes:
        """Send one request, and return the payload that the server has of it.

        Raises:
            BackendError: It does not come.

        """
        self._requests += 1
        due_at_s = time.monotonic() + PATIENCE_S
        request = request_of(payload, number=self._requests, boot_id=self._boot_id, bundle=self._identity, cut=cut)
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
        self._server.serve(_POLL_MS if not self._device.poll(0) else 0)
        while self._device.poll(0):
            frames = [memoryview(part) for part in self._device.recv_multipart()]
            events = self._session.receive(frames, time.monotonic())
            answered |= any(isinstance(event, Answered) for event in events)
        return answered


@contextlib.contextmanager
def connected(bundle: Bundle) -> Iterator[Wire]:
    """A connected pair, closed at the end of the block."""
    made = Wire(bundle)
    try:
        yield made
    finally:
        made.close()

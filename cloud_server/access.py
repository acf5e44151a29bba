"""Who may connect: CURVE with ZAP (RFC 27), answered in the gateway's own loop.

There is no authenticator thread that could die unnoticed: while the gateway does not answer, handshakes wait.
libzmq admits everybody where no ZAP handler is bound, unless a domain is set **and** enforced; `self_test`
finds out on the very socket that will listen, before it does.

The reply also sets the connection's routing id. libzmq's ROUTER lets a peer choose its own: the one of another
device, whose answers it would then get, or the number that libzmq gives to the next peer, where libzmq aborts.
It takes an id from the property ``Identity``, of the peer's metadata and of the ZAP reply's, whichever it reads
last. It reads a reply last unless the reply is there before its I/O thread has gone on from the request (measured
without care: 1.6 % on a busy machine). So replies wait for an `IoBarrier`, and ours is always the last.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from cloud_server.allow_list import AllowList
from cloud_server.connections import Connections
from cloud_server.descriptors import IoBarrier
from cloud_server.errors import AccessControlError
from cloud_server.refused_keys import RefusedKeys
from split_model.protocol.keys import KeyPair
from split_model.service.throttle import PER_FRAME

_log = logging.getLogger(__name__)

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
DOMAIN = b"cloud-server"
#: The self-test's patience with each of its two handshakes, and with its message.
SELF_TEST_S = 5.0
#: The routing id that the self-test's client asks for, and must not get.
_CHOSEN_ID = b"chosen by the peer"
#: Handshakes taken from libzmq before messages and results get their turn again.
_BATCH = 64

#: A routing id for the new connection, or why there is none.
Admission = bytes | Literal["refused", "later"]

_OUTCOMES = {
    int(zmq.EVENT_HANDSHAKE_SUCCEEDED): "admitted",
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "refused",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "broken off",
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "broken off",
}


def secure(socket: zmq.Socket[bytes], keys: KeyPair) -> None:
    """Make a socket a CURVE server that no peer passes without ZAP's consent."""
    socket.curve_server = True
    socket.curve_publickey = keys.public
    socket.curve_secretkey = keys.secret
    socket.zap_domain = DOMAIN
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def decide(frames: list[bytes], admit: Callable[[str], Admission]) -> tuple[list[bytes], str | None]:
    """ZAP's reply to a request (both without envelope), and the key that was refused, if one was.

    Anything but a well-formed CURVE request in our domain is refused. Who is to come later (300) is left without
    an answer: libzmq closes the connection after ``handshake_ivl`` and the device tries again by itself.
    """
    version, request_id, domain, _address, _identity, mechanism = (*frames[:6], *[b""] * 6)[:6]
    if len(frames) != 7 or version != b"1.0" or domain != DOMAIN or mechanism != b"CURVE" or len(frames[6]) != 32:
        return [b"1.0", request_id, b"400", b"not a CURVE request of this domain", b"", b""], None
    key = z85.encode(frames[6]).decode()
    admission = admit(key)
    if admission == "refused":
        return [b"1.0", request_id, b"400", b"key not on the allow-list", b"", b""], key
    if admission == "later":
        return [b"1.0", request_id, b"300", b"too many handshakes", b"", b""], None
    assert isinstance(admission, bytes)
    return [b"1.0", request_id, b"200", b"OK", key.encode(), _property(b"Identity", admission)], None


def _property(name: bytes, value: bytes) -> bytes:
    """One property of ZMTP metadata."""
    return bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value


class Gatekeeper:
    """Answers ZAP requests by the allow-list, and remembers the last keys it turned away."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        allow_list: AllowList,
        connections: Connections,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.allow_list = allow_list
        self.refused = RefusedKeys()
        self.test_key: str | None = None
        self._connections = connections
        self._clock = clock
        self._arrived: list[list[bytes]] = []
        self._behind_barrier: list[list[bytes]] = []
        self._barrier = IoBarrier(context)
        self._socket = context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.bind(ZAP_ENDPOINT)

    @property
    def sockets(self) -> tuple[zmq.Socket[bytes], ...]:
        """Call `answer_all` when one of these is readable."""
        return self._socket, self._barrier.socket

    def admits(self, key: str) -> bool:
        """Whether this public key (Z85) may talk to us now."""
        return self.allow_list.name_of(key) is not None or (self.test_key is not None and key == self.test_key)

    @property
    def still_refused(self) -> dict[str, int]:
        """Keys that were turned away, with how often, and that would be again."""
        return {key: times for key, times in self.refused.times.items() if not self.admits(key)}

    def answer_all(self) -> None:
        """Answer the handshakes that the I/O thread has gone on from, and see that it goes on from the new ones."""
        with suppress(zmq.Again):
            for _ in range(_BATCH):
                self._arrived.append(self._socket.recv_multipart(zmq.DONTWAIT))
        if not self._barrier.passed():
            return
        if self._behind_barrier:
            self.allow_list.refresh()
        for message in self._behind_barrier:
            self._answer(message)
        self._behind_barrier, self._arrived = self._arrived, []
        if self._behind_barrier:
            self._barrier.raise_()

    def _answer(self, message: list[bytes]) -> None:
        envelope = message.index(b"") + 1 if b"" in message else len(message)
        reply, refused = decide(message[envelope:], self._admit)
        self._socket.send_multipart([*message[:envelope], *reply])
        if refused is not None:
            self._note_refusal(refused)

    def _admit(self, key: str) -> Admission:
        if not self.admits(key):
            return "refused"
        if key == self.test_key:
            return self._connections.issue(key)
        return self._connections.admit(key, self._clock()) or "later"

    def _note_refusal(self, key: str) -> None:
        """Say it once a key, because a device tries again and again, and a stranger may try with many."""
        if self.refused.note(key) and self.test_key is None:
            text = "refused a device; to admit it: cloud-server devices allow -c FILE NAME '%s'"
            _log.warning(text, key, extra=PER_FRAME)  # who makes keys up must not fill the journal


def self_test(
    context: zmq.Context[zmq.Socket[bytes]],
    router: zmq.Socket[bytes],
    gate: Gatekeeper,
    connections: Connections,
    server_key: bytes,
    *,
    within_s: float = SELF_TEST_S,
) -> None:
    """Prove on ``router`` that a stranger is refused, an admitted key is not, and nobody chooses a routing id.

    Binds the socket to a port of the loopback interface for the time of the test only.

    Raises:
        AccessControlError: One of them does not hold.

    """
    router.bind("tcp://127.0.0.1:*")
    endpoint = endpoint_of(router)
    try:
        public, secret = zmq.curve_keypair()
        gate.test_key = ""  # nobody's, but it keeps the test's own refusal out of the log
        knock = _Knock(context, endpoint, KeyPair(public, secret), server_key)
        outcome = knock.wait(gate, within_s=within_s)
        knock.close()
        if outcome != "refused":
            raise AccessControlError(
                f"self-test: a key that is not on the allow-list was {outcome}, not refused; not starting"
            )
        gate.refused.forget(public.decode())
        gate.test_key = public.decode()
        knock = _Knock(context, endpoint, KeyPair(public, secret), server_key)
        outcome = knock.wait(gate, within_s=within_s)
        seen, routing_id = knock.message_user(router, within_s=within_s) if outcome == "admitted" else (None, b"")
        knock.close()
        if seen != gate.test_key:
            raise AccessControlError(f"self-test: an admitted key was {outcome} and seen as {seen}; not starting")
        if not connections.issued_to(routing_id, gate.test_key):
            raise AccessControlError(
                f"self-test: libzmq {zmq.zmq_version()} let a peer choose its own routing id; not starting",
                remedy="install the pyzmq version that this release names",
            )
    finally:
        gate.test_key = None
        router.unbind(endpoint)


class _Knock:
    """One throw-away client at our own door."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, keys: KeyPair, server_key: bytes
    ) -> None:
        self._client = context.socket(zmq.DEALER)
        self._client.linger = 0
        self._client.routing_id = _CHOSEN_ID
        self._client.curve_serverkey = server_key
        self._client.curve_publickey = keys.public
        self._client.curve_secretkey = keys.secret
        self._monitor = self._client.get_monitor_socket(sum(_OUTCOMES))
        self._client.connect(endpoint)

    def wait(self, gate: Gatekeeper, *, within_s: float) -> str:
        """Serve the handshake and say how it ended for the client."""
        poller = zmq.Poller()
        poller.register(self._monitor, zmq.POLLIN)
        for socket in gate.sockets:
            poller.register(socket, zmq.POLLIN)
        deadline_s = time.monotonic() + within_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            ready = dict(poller.poll(int(left_s * 1000) + 1))
            gate.answer_all()
            if self._monitor in ready:
                return _OUTCOMES.get(int(recv_monitor_message(self._monitor)["event"]), "broken off")
        return "left without an answer"

    def message_user(self, router: zmq.Socket[bytes], *, within_s: float) -> tuple[str | None, bytes]:
        """Send a message and say whose the server takes it for, and by which routing id it would answer."""
        self._client.send(b"self-test")
        if not router.poll(int(within_s * 1000)):
            return None, b""
        frames = router.recv_multipart(copy=False)
        return user_of(frames[-1]), frames[0].bytes

    def close(self) -> None:
        self._client.disable_monitor()
        self._monitor.close()
        self._client.close()


def user_of(frame: zmq.Frame) -> str | None:
    """The public key (Z85) that the peer of a received frame has proved to hold."""
    try:
        return str(frame.get("User-Id")) or None
    except zmq.ZMQError:  # EINVAL: the frame has no such property
        return None


def endpoint_of(socket: zmq.Socket[bytes]) -> str:
    """Where a bound socket really listens: port 0 has become a number."""
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return endpoint.rstrip(b"\0").decode()

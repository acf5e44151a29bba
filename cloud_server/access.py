"""Access control: CURVE with ZAP (RFC 27), answered in the gateway's own loop.

There is no authenticator thread that could die unnoticed: while the gateway does not answer, handshakes wait.
libzmq admits everybody if no ZAP handler is bound, unless a domain is set **and** enforced. `self_test` proves this
on the socket that will listen, before it listens.

The reply also sets the connection's routing id. libzmq's ROUTER lets a peer choose its own id. A peer could choose
that of another device, whose answers it would then get, or the number that libzmq gives to the next peer, which
makes libzmq abort. libzmq takes the id from the property ``Identity`` of the peer's metadata and of the ZAP reply,
whichever it reads last. It reads the reply last unless the reply arrives before its I/O thread has left the request
(measured without the barrier: 1.6 % on a busy machine). So replies wait for an `IoBarrier`, and ours is always read
last.
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
#: Time limit in seconds of each of the self-test's two handshakes, and of its message.
SELF_TEST_S = 5.0
#: The routing id that the self-test's client asks for, and must not get.
_CHOSEN_ID = b"chosen by the peer"
#: Maximum handshakes in one turn, before messages and results get theirs.
_BATCH = 64

#: The routing id of the new connection, or the reason for a refusal.
Admission = bytes | Literal["refused", "later"]

_OUTCOMES = {
    int(zmq.EVENT_HANDSHAKE_SUCCEEDED): "admitted",
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "refused",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "broken off",
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "broken off",
}


def secure(socket: zmq.Socket[bytes], keys: KeyPair) -> None:
    """Make a socket a CURVE server that admits a peer only with ZAP's consent."""
    socket.curve_server = True
    socket.curve_publickey = keys.public
    socket.curve_secretkey = keys.secret
    socket.zap_domain = DOMAIN
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def decide(frames: list[bytes], admit: Callable[[str], Admission]) -> tuple[list[bytes], str | None]:
    """Decide on a ZAP request; returns the reply (both without envelope), and the key if it was refused.

    Everything but a well-formed CURVE request in our domain is refused. A device that has to come later (300) gets
    no answer: libzmq closes the connection after ``handshake_ivl`` and the device tries again.
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
    """Answers ZAP requests by the allow-list, and remembers the last refused keys."""

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
        """The sockets to poll: call `answer_all` when one of them is readable."""
        return self._socket, self._barrier.socket

    def admits(self, key: str) -> bool:
        """Whether this public key (Z85) is admitted now."""
        return self.allow_list.name_of(key) is not None or (self.test_key is not None and key == self.test_key)

    @property
    def still_refused(self) -> dict[str, int]:
        """Keys that were refused and still would be, with their counts."""
        return {key: times for key, times in self.refused.times.items() if not self.admits(key)}

    def answer_all(self) -> None:
        """Answer the handshakes that the I/O thread has left, and raise a barrier for the new ones."""
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
        """Log a refusal once for each key: a device tries repeatedly, and a stranger may try with many keys."""
        if self.refused.note(key) and self.test_key is None:
            text = "refused a device; to admit it: cloud-server devices allow -c FILE NAME '%s'"
            _log.warning(text, key, extra=PER_FRAME)  # a stranger with many keys must not fill the journal


def self_test(
    context: zmq.Context[zmq.Socket[bytes]],
    router: zmq.Socket[bytes],
    gate: Gatekeeper,
    connections: Connections,
    server_key: bytes,
    *,
    within_s: float = SELF_TEST_S,
) -> None:
    """Prove on ``router`` that strangers are refused, admitted keys are not, and no peer chooses its id.

    Binds the socket to a port of the loopback interface only during the test.

    Raises:
        AccessControlError: One of these does not hold.

    """
    router.bind("tcp://127.0.0.1:*")
    endpoint = endpoint_of(router)
    try:
        public, secret = zmq.curve_keypair()
        gate.test_key = ""  # no device's key; it also keeps the test's own refusal out of the log
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
    """A temporary client of our own socket, for the self-test."""

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
        """Serve the handshake; returns its outcome for the client."""
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
        """Send a message; returns the key and the routing id under which the server received it."""
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
    """The public key (Z85) that the sender of a received frame has proved to own."""
    try:
        return str(frame.get("User-Id")) or None
    except zmq.ZMQError:  # EINVAL: the frame has no such property
        return None


def endpoint_of(socket: zmq.Socket[bytes]) -> str:
    """The address at which a bound socket listens, with port 0 replaced by its number."""
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return endpoint.rstrip(b"\0").decode()

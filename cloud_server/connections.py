"""Tracks the connections of all devices: their keys, their use, and which must end. No I/O, no clock.

Every connection gets a random routing id from us, through ZAP. An answer is sent to that id, and no device can
choose or guess another's id. Events with their times go in; decisions come out. `cloud_server.descriptors` has the
system calls, and `cloud_server.gateway` connects the two.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from cloud_server.budgets import Budgets, KeyUse

#: Reasons for which we end a connection: the keys of the counter ``ended``.
Reason = Literal["frames", "budget", "backlog", "no_hello", "revoked", "crowded"]
#: The address of a connection's other end, as from getpeername.
Address = object

#: A key with a larger debt than this ignores our acknowledgements: a device that waits for them stays below.
DEBT_S = 2.0
#: Seconds after its last message for which a key counts as sending.
HERE_S = 1.0
#: Time limits in seconds of a connection's handshake, and of the time without a hello.
HANDSHAKE_S = 5.0
HELLO_S = 5.0
#: Seconds for which a revoked device's connection stays open, so that the refusal reaches it.
FAREWELL_S = 0.25
#: Seconds for which a key is shut out after a message with too many frames.
SHUT_OUT_S = 60.0
#: Bytes that a connection may have received but we have not read, beyond the windows of its requests.
BACKLOG_BYTES = 8 << 20
#: Bytes (of heartbeats, for example) that a connection may receive unseen between two sweeps.
_UNSEEN_BYTES = 1 << 10
#: Overhead of a frame on the wire: CURVE's 33 bytes and ZMTP's short header, or its long one beyond this size.
_SHORT_BYTES, _SHORT_HEAD_BYTES, _LONG_HEAD_BYTES = 222, 35, 42
#: Maximum number of routing ids of unfinished handshakes.
_MAX_ISSUED = 4096
#: Maximum number of connections without a message; lower if the program may have few descriptors. Without free #:
#: descriptors no device can connect, and libzmq retries accept in an endless loop.
_MOST_WAITING = 512
_WAITING_SHARE = 4


@dataclass(eq=False, slots=True)
class Connection:
    """One TCP connection. ``routing_id`` and ``key`` are empty until its first message.

    ``since_s``: when it was last known to be greeted, or when it was made. ``taken_bytes``: bytes on the wire that
    we have read of it. ``ended``: it was shut down, and messages that still come from it are dropped.
    """

    fd: int
    address: Address
    number: int
    since_s: float
    routing_id: bytes = b""
    key: str = ""
    use: KeyUse | None = None
    taken_bytes: int = 0
    unseen_bytes: int = 0
    revoked_s: float | None = None
    ended: bool = False


@dataclass(eq=False)
class Connections:
    """All connections. ``new_id`` makes unguessable routing ids; ``descriptors``: limit of this program."""

    new_id: Callable[[], bytes]
    budgets: Budgets = field(default_factory=Budgets)
    descriptors: int = _WAITING_SHARE * _MOST_WAITING
    delayed: int = 0

    def __post_init__(self) -> None:
        self._number = 0
        self._issued: OrderedDict[bytes, tuple[str, int]] = OrderedDict()  # routing id -> key, number
        self._by_fd: dict[int, Connection] = {}
        self._waiting: dict[object, dict[int, Connection]] = {}  # host -> those without a message, by descriptor
        self._by_id: dict[bytes, Connection] = {}
        self._by_key: dict[str, dict[bytes, Connection]] = {}
        self._uses: dict[str, KeyUse] = {}
        self._here: OrderedDict[str, float] = OrderedDict()  # keys by the time of their last message

    def limit(self, budgets: Budgets, now_s: float) -> None:
        """Set other budgets for all keys."""
        if budgets != self.budgets:
            self.budgets = budgets
            for use in self._uses.values():
                use.limit(budgets, now_s)

    def admit(self, key: str, now_s: float) -> bytes | None:
        """Return a routing id for a new connection of an allowed key; None if the key has to wait."""
        use = self._use(key, now_s)
        if now_s < use.shut_until_s or use.spend(0, 0, now_s) > 0.0 or not use.handshakes.try_spend(1.0, now_s):
            self.delayed += 1
            return None
        return self.issue(key)

    def issue(self, key: str) -> bytes:
        """Return a routing id for a connection of this key, without a limit."""
        routing_id = self.new_id()
        self._issued[routing_id] = (key, self._next())
        while len(self._issued) > _MAX_ISSUED:
            self._issued.popitem(last=False)
        return routing_id

    def issued_to(self, routing_id: bytes, key: str) -> bool:
        """Whether this id belongs to a connection of this key without a message so far."""
        return self._issued.get(routing_id, ("", 0))[0] == key

    def opened(self, fd: int, address: Address, now_s: float) -> None:
        """Note an accepted connection; an older one with the same descriptor number has ended."""
        self.closed(fd)
        connection = self._by_fd[fd] = Connection(fd, address, self._next(), now_s)
        self._waiting.setdefault(_host(address), {})[fd] = connection

    def crowded_out(self) -> list[Connection]:
        """Find the connections to end because too many have not sent a message.

        They are the oldest of the host with the most: an attacker who floods us has the most, and shuts no other
        host out.
        """
        most = min(_MOST_WAITING, self.descriptors // _WAITING_SHARE)
        out = []
        for _ in range(sum(map(len, self._waiting.values())) - most):
            crowd = max(self._waiting.values(), key=len)
            out.append(next(iter(crowd.values())))
            self._waits_no_more(out[-1])
        return out

    def _waits_no_more(self, connection: Connection) -> None:
        host = _host(connection.address)
        of_host = self._waiting.get(host, {})
        if of_host.get(connection.fd) is connection:
            del of_host[connection.fd]
        if not of_host:
            self._waiting.pop(host, None)

    def closed(self, fd: int) -> bytes:
        """Note that a connection is closed. Returns its routing id, empty if it never sent a message."""
        connection = self._by_fd.pop(fd, None)
        if connection is None:
            return b""
        self._waits_no_more(connection)
        if not connection.routing_id:
            return b""
        del self._by_id[connection.routing_id]
        of_key = self._by_key[connection.key]
        del of_key[connection.routing_id]
        if not of_key:
            del self._by_key[connection.key]
        return connection.routing_id

    def find(self, routing_id: bytes) -> Connection | None:
        """Find the connection with this routing id; None if it has not sent a message."""
        return self._by_id.get(routing_id)

    def meet(self, routing_id: bytes, key: str, fd: int, now_s: float) -> Connection | None:
        """Find the connection of a first message; None if it is closed already, or the id is not from us."""
        issued_key, number = self._issued.pop(routing_id, (None, 0))
        connection = self._by_fd.get(fd)
        if issued_key != key or connection is None or connection.routing_id or number < connection.number:
            return None  # a lower number: issued to an older connection with the same descriptor
        connection.routing_id, connection.key, connection.use = routing_id, key, self._use(key, now_s)
        self._waits_no_more(connection)
        self._by_id[routing_id] = connection
        self._by_key.setdefault(key, {})[routing_id] = connection
        return connection

    def spend(
        self, connection: Connection, sizes_bytes: list[int], now_s: float, *, messages: int = 1
    ) -> float | None:
        """Charge messages with frames of these sizes to their key.

        Returns:
            Seconds to delay the replies; None if the key has overdrawn its budget.

        """
        assert connection.use is not None
        for size_bytes in sizes_bytes:
            connection.taken_bytes += size_bytes + (
                _SHORT_HEAD_BYTES if size_bytes <= _SHORT_BYTES else _LONG_HEAD_BYTES
            )
        delay_s = connection.use.spend(messages, sum(sizes_bytes), now_s)
        return None if delay_s > DEBT_S else delay_s

    def delay_s(self, routing_id: bytes, now_s: float) -> float:
        """Seconds to delay an answer, until its key is out of debt; a device that waits for answers slows down."""
        connection = self._by_id.get(routing_id)
        return 0.0 if connection is None or connection.use is None else connection.use.spend(0, 0, now_s)

    def spend_gateway(self, connection: Connection, seconds: float, now_s: float) -> None:
        """Charge a key the gateway's time for a message, if other keys send messages too."""
        assert connection.use is not None
        self._here[connection.key] = now_s
        self._here.move_to_end(connection.key)
        while next(iter(self._here.values())) < now_s - HERE_S:
            self._here.popitem(last=False)
        if len(self._here) > 1:
            connection.use.spend_gateway(seconds, now_s)

    def of_key(self, key: str) -> list[Connection]:
        """All connections of one key that are not ended."""
        return [connection for connection in self._by_key.get(key, {}).values() if not connection.ended]

    def shut_out(self, key: str, now_s: float) -> list[Connection]:
        """Shut a key out for a while after a broken protocol. Returns the connections to end now."""
        self._use(key, now_s).shut_until_s = now_s + SHUT_OUT_S
        return self.of_key(key)

    def revoke(self, admits: Callable[[str], bool], now_s: float) -> None:
        """Handle a changed allow-list: connections of keys that are not on it end soon."""
        for connection in self._by_id.values():
            if admits(connection.key):
                continue
            if connection.revoked_s is None:
                connection.revoked_s = now_s
        held = {connection.key for connection in self._by_id.values()}
        for key in [key for key in self._uses if key not in held and not admits(key)]:
            del self._uses[key]

    def sweep(
        self,
        now_s: float,
        *,
        greeted: Callable[[bytes], bool],
        received_bytes: Callable[[Connection], int | None],
    ) -> Iterator[tuple[Connection, Reason]]:
        """Find the connections that must end now, with the reasons.

        Args:
            now_s: The time.
            greeted: Whether the peer with a routing id has said hello and is not silent.
            received_bytes: Bytes that the kernel received on a connection, None if unknown.

        """
        for connection in list(self._by_fd.values()):
            if connection.ended:
                continue
            if connection.routing_id and greeted(connection.routing_id):
                connection.since_s = now_s
            if connection.revoked_s is not None and now_s - connection.revoked_s >= FAREWELL_S:
                yield connection, "revoked"
            elif now_s - connection.since_s > HELLO_S + (0.0 if connection.routing_id else HANDSHAKE_S):
                yield connection, "no_hello"
            elif connection.routing_id and self._behind(connection, received_bytes(connection)):
                yield connection, "backlog"

    def _behind(self, connection: Connection, received_bytes: int | None) -> bool:
        """Whether a connection sends a message without an end, or more than the windows of its requests."""
        if received_bytes is None:
            return False
        behind = received_bytes - connection.taken_bytes - connection.unseen_bytes
        connection.unseen_bytes += min(behind, _UNSEEN_BYTES)
        return behind > self.budgets.window_bytes + BACKLOG_BYTES

    def _use(self, key: str, now_s: float) -> KeyUse:
        use = self._uses.get(key)
        if use is None:
            use = self._uses[key] = KeyUse(self.budgets, now_s)
        return use

    def _next(self) -> int:
        self._number += 1
        return self._number


def _host(address: Address) -> object:
    """The host part of an address from getpeername."""
    return address[0] if isinstance(address, tuple) else address

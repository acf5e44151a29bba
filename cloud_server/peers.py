"""The connections that have a session, by routing id and by key. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cloud_server.limits import ServerLimits
from split_model.protocol.server import PeerSession


@dataclass(eq=False)
class Peer:
    """One connection. ``arriving``: ids of arriving requests; ``arriving_bytes``: their bytes so far."""

    routing_id: bytes
    session: PeerSession
    arriving: set[int] = field(default_factory=set)
    arriving_bytes: int = 0

    @property
    def key(self) -> str:
        """The key that its device has proved to own."""
        return self.session.user_id


class Peers:
    """All peers. The cost of a call is independent of their number, except for iteration."""

    def __init__(self) -> None:
        self._peers: dict[bytes, Peer] = {}
        self._by_key: dict[str, dict[bytes, Peer]] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[Peer]:
        """Iterate over the present peers; they may be removed meanwhile."""
        return iter(list(self._peers.values()))

    def find(self, routing_id: bytes) -> Peer | None:
        """Find the peer of a connection; None if it has no session."""
        return self._peers.get(routing_id)

    def of_key(self, key: str) -> list[Peer]:
        """The peers of one device."""
        return list(self._by_key.get(key, {}).values())

    def add(self, peer: Peer) -> None:
        """Add a new peer."""
        self._peers[peer.routing_id] = peer
        self._by_key.setdefault(peer.key, {})[peer.routing_id] = peer

    def remove(self, routing_id: bytes) -> Peer | None:
        """Remove a peer and return it; None if there is none."""
        peer = self._peers.pop(routing_id, None)
        if peer is not None:
            same_key = self._by_key[peer.key]
            del same_key[routing_id]
            if not same_key:
                del self._by_key[peer.key]
        return peer

    def why_no_room(self, key: str, limits: ServerLimits) -> str:
        """Why one more connection of this key would be too many, or empty."""
        if len(self._peers) >= limits.peers:
            return f"this server has {len(self._peers)} connections, its limit"
        mine = len(self._by_key.get(key, ()))
        if mine >= limits.connections_per_device:
            return f"you have {mine} connections here, the limit"
        return ""

"""Limits of the server over all devices, from the config."""

from __future__ import annotations

from dataclasses import dataclass, field

from cloud_server.budgets import Budgets
from split_model.protocol import server as protocol


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """Bounds over all peers; ``peer`` are those of one connection."""

    peer: protocol.Limits = field(default_factory=protocol.Limits)
    peers: int = 256
    connections_per_device: int = 4
    held_bytes: int = 512 << 20
    peer_timeout_s: float = 15.0
    bytes_per_s: float = Budgets.bytes_per_s
    messages_per_s: float = Budgets.messages_per_s
    gateway_share: float = Budgets.gateway_share

    @property
    def budgets(self) -> Budgets:
        """The budgets of one key, over all its connections."""
        return Budgets(
            bytes_per_s=self.bytes_per_s,
            messages_per_s=self.messages_per_s,
            gateway_share=self.gateway_share,
            window_bytes=self.peer.open_requests * self.peer.window_bytes,
        )

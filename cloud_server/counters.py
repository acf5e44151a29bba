"""The server's counters, under the names of its status file and log."""

from __future__ import annotations

import msgspec


class Counters(msgspec.Struct, kw_only=True):
    """Totals since the start.

    ``requests``: admitted requests; each ends in one of ``answered``, ``failed`` (refused later,
    as expired, busy, broken or failed), ``cancelled`` by its device, or ``dropped`` with a peer that left or
    started over. ``refused``: every refusal by code, those before admission included. ``late``: results of requests
    that were given up. ``unroutable`` and ``congested``: replies to a peer that is gone, or that does not read.
    ``unauthenticated``: messages without a proven key. ``strays``: messages of connections that are gone already.
    ``ended``: connections that we ended, by reason: ``frames`` (a message with more frames than the protocol has),
    ``budget`` (over it, and ignores our acknowledgements), ``backlog`` (a message without an end, or more than the
    window), ``no_hello``, ``revoked``, ``crowded`` (too many connections without a message). ``asks``: questions of
    devices before they send. ``delayed``: handshakes of devices that make too many.
    """

    requests: int = 0
    answered: int = 0
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    failed: int = 0
    cancelled: int = 0
    dropped: int = 0
    late: int = 0
    unroutable: int = 0
    congested: int = 0
    unauthenticated: int = 0
    strays: int = 0
    ended: dict[str, int] = msgspec.field(default_factory=dict)
    asks: int = 0
    delayed: int = 0
    peers_seen: int = 0
    peers_silent: int = 0

    def refuse(self, code: str) -> None:
        """Count a refusal of a request or of a message."""
        self.refused[code] = self.refused.get(code, 0) + 1

    def end(self, reason: str) -> None:
        """Count a connection that we ended."""
        self.ended[reason] = self.ended.get(reason, 0) + 1

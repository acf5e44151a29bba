"""The device's uploads on a connection: requests without an outcome, and probes that have not come back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from split_model.protocol import messages as wire
from split_model.protocol.chunks import Outgoing


@dataclass(frozen=True)
class Progress:
    """How far an open request has come.

    ``first_sent_s``: when its first chunk went out on this connection, None if it has not. ``others_bytes``: what
    was acknowledged of other requests since then, and ``others_at_s`` when that was last.
    """

    total_bytes: int
    acked_bytes: int = 0
    first_sent_s: float | None = None
    others_bytes: int = 0
    others_at_s: float = -math.inf


@dataclass
class Upload:
    """A request that has no outcome yet. ``others_bytes``, ``others_at_s``: see `Progress`.

    ``held``: the server refused another one a moment ago, so all but the first chunk waits for an acknowledgement.
    """

    request: wire.Request
    outgoing: Outgoing
    due_at_s: float
    held: bool = False
    first_sent_s: float | None = None
    others_bytes: int = 0
    others_at_s: float = -math.inf

    def unsend(self, chunk: memoryview) -> None:
        """Take back the chunk that was handed out last."""
        self.outgoing.unsend(chunk)
        if self.outgoing.sent_bytes == 0:
            self.first_sent_s = None


@dataclass
class OpenProbe:
    """A probe that has not come back."""

    total_bytes: int
    sent_s: float | None = None
    outgoing: Outgoing = field(default_factory=lambda: Outgoing(memoryview(b"")))

    def unsend(self, chunk: memoryview) -> None:
        """Take back the chunk that was handed out last."""
        self.outgoing.unsend(chunk)
        if self.outgoing.sent_bytes == 0:
            self.sent_s = None

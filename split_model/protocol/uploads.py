"""The device's uploads on a connection: requests without an outcome, and probes without a reply."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from split_model.protocol import messages as wire
from split_model.protocol.chunks import Outgoing


@dataclass(frozen=True)
class Progress:
    """The progress of an open request.

    ``first_sent_s``: when its first chunk was sent on this connection, None if it was not. ``others_bytes``: bytes
    of other requests acknowledged since then; ``others_at_s``: the time of the last such acknowledgement.
    """

    total_bytes: int
    acked_bytes: int = 0
    first_sent_s: float | None = None
    others_bytes: int = 0
    others_at_s: float = -math.inf


@dataclass
class Upload:
    """A request without an outcome. ``others_bytes``, ``others_at_s``: see `Progress`.

    ``held``: the server refused another request just before, so all chunks but the first wait for an
    acknowledgement.
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
    """A probe without a reply."""

    total_bytes: int
    sent_s: float | None = None
    outgoing: Outgoing = field(default_factory=lambda: Outgoing(memoryview(b"")))

    def unsend(self, chunk: memoryview) -> None:
        """Take back the chunk that was handed out last."""
        self.outgoing.unsend(chunk)
        if self.outgoing.sent_bytes == 0:
            self.sent_s = None

"""What happens to the device's side of a connection, as `device.DeviceSession` tells it."""

from __future__ import annotations

from dataclasses import dataclass

from split_model.protocol import messages as wire


@dataclass(frozen=True)
class Welcomed:
    """The server accepts us and lists the bundles it hosts."""

    welcome: wire.Welcome


@dataclass(frozen=True)
class Answered:
    """The answer of a request, with its timings of the link; ``elapsed_s`` since its first chunk went out.

    ``held``: the others waited for the first one's acknowledgement, so the timings say nothing of the link.
    """

    request_id: int
    answer: wire.Answer
    payload: memoryview
    total_bytes: int
    elapsed_s: float
    held: bool = False


@dataclass(frozen=True)
class Refused:
    """The server's no to one request, or to the connection where ``request_id`` is None; ``text`` may be logged."""

    request_id: int | None
    code: str
    text: str
    load: wire.Load | None = None

    @property
    def retry_s(self) -> float:
        """When to try again, in seconds, as far as the server said; else 0."""
        return 0.0 if self.load is None else self.load.retry_s


@dataclass(frozen=True)
class Advised:
    """The server's word on a request at a cut of a bundle, before it is made."""

    bundle: str
    cut: int
    load: wire.Load


@dataclass(frozen=True)
class Probed:
    """A probe came back; ``total_bytes`` 0 was a ping."""

    total_bytes: int
    timed_bytes: int
    receive_s: float
    elapsed_s: float


@dataclass(frozen=True)
class Late:
    """An answer to a request that nobody waits for any more; dropped."""

    request_id: int


@dataclass(frozen=True)
class Forgotten:
    """The server does not know us any more; the greeting and every open request are queued again."""


Event = Welcomed | Answered | Refused | Advised | Probed | Late | Forgotten

"""The events of `device.DeviceSession`."""

from __future__ import annotations

from dataclasses import dataclass

from split_model.protocol import messages as wire


@dataclass(frozen=True)
class Welcomed:
    """The server accepted us; lists the bundles that it hosts."""

    welcome: wire.Welcome


@dataclass(frozen=True)
class Answered:
    """An answer, with its timings of the link; ``elapsed_s``: since the first chunk was sent.

    ``held``: the other chunks waited for the first one's acknowledgement, so the timings do not measure the link.
    """

    request_id: int
    answer: wire.Answer
    payload: memoryview
    total_bytes: int
    elapsed_s: float
    held: bool = False


@dataclass(frozen=True)
class Refused:
    """A refusal of one request, or of the connection if ``request_id`` is None; ``text`` is safe to log."""

    request_id: int | None
    code: str
    text: str
    load: wire.Load | None = None

    @property
    def retry_s(self) -> float:
        """Seconds until a retry, by the server; 0 if it gave none."""
        return 0.0 if self.load is None else self.load.retry_s


@dataclass(frozen=True)
class Advised:
    """The server's answer to a question about a request at a cut of a bundle."""

    bundle: str
    cut: int
    load: wire.Load


@dataclass(frozen=True)
class Probed:
    """The reply to a probe; ``total_bytes`` 0: a ping."""

    total_bytes: int
    timed_bytes: int
    receive_s: float
    elapsed_s: float


@dataclass(frozen=True)
class Late:
    """A dropped answer, which came after its request was cancelled."""

    request_id: int


@dataclass(frozen=True)
class Forgotten:
    """The server has dropped our session; the greeting and every open request are queued again."""


Event = Welcomed | Answered | Refused | Advised | Probed | Late | Forgotten

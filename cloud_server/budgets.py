"""Limits one key's use of the gateway: handshakes, messages, bytes, time. Pure."""

from __future__ import annotations

from dataclasses import dataclass

#: Handshakes of a key: maximum at once, and then per second. A device with an unstable link needs fewer.
HANDSHAKE_BURST = 20
HANDSHAKES_PER_S = 1.0
#: Burst of a key, in seconds of its rate.
BURST_S = 2.0
#: Burst of its share of the gateway's time, in seconds: others wait meanwhile.
GATEWAY_BURST_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """Limits of one key over all its connections, and of the bytes of a connection that we have not seen.

    ``gateway_share``: share of the gateway's time while other keys send messages too.
    """

    bytes_per_s: float = float(128 << 20)
    messages_per_s: float = 10_000.0
    gateway_share: float = 0.1
    window_bytes: int = 8 << 20


class Bucket:
    """A token bucket that may go into debt."""

    def __init__(self, rate: float, burst: float, now_s: float) -> None:
        self._rate, self._burst, self._level, self._now_s = rate, burst, burst, now_s

    def spend(self, amount: float, now_s: float) -> float:
        """Take ``amount``. Returns the seconds until the debt, if there is one, is paid."""
        if not amount and self._level >= 0.0:
            return 0.0
        self._fill(now_s)
        self._level -= amount
        return 0.0 if self._level >= 0.0 else -self._level / self._rate

    def try_spend(self, amount: float, now_s: float) -> bool:
        """Take ``amount`` if that makes no debt; returns whether it did."""
        self._fill(now_s)
        if self._level < amount:
            return False
        self._level -= amount
        return True

    def _fill(self, now_s: float) -> None:
        if now_s > self._now_s:
            level = self._level + (now_s - self._now_s) * self._rate
            self._level = min(self._burst, level)
        self._now_s = now_s


class KeyUse:
    """The use of one key."""

    def __init__(self, budgets: Budgets, now_s: float) -> None:
        self.handshakes = Bucket(HANDSHAKES_PER_S, float(HANDSHAKE_BURST), now_s)
        self.shut_until_s = now_s
        self.limit(budgets, now_s)

    def limit(self, budgets: Budgets, now_s: float) -> None:
        """Set other budgets."""
        self._messages = Bucket(budgets.messages_per_s, budgets.messages_per_s * BURST_S, now_s)
        self._bytes = Bucket(budgets.bytes_per_s, budgets.bytes_per_s * BURST_S, now_s)
        self._gateway = Bucket(budgets.gateway_share, budgets.gateway_share * GATEWAY_BURST_S, now_s)

    def spend(self, messages: int, size_bytes: int, now_s: float) -> float:
        """Charge messages. Returns the seconds until the key is out of debt."""
        return max(
            self._messages.spend(messages, now_s),
            self._bytes.spend(size_bytes, now_s),
            self._gateway.spend(0, now_s),
        )

    def spend_gateway(self, seconds: float, now_s: float) -> None:
        """Charge time of the gateway; the next message waits for the debt."""
        self._gateway.spend(seconds, now_s)

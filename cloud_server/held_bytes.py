"""Counts the memory of each device's requests, and bounds it for one device. Pure.

A device may hold as many bytes as are free: one device alone gets half of the limit, n devices get 1/(n + 1) each,
and the remaining share is free for a device that holds nothing yet.
"""

from __future__ import annotations


class HeldBytes:
    """Bytes held for each key and for all of them."""

    def __init__(self) -> None:
        self.total = 0
        self._held: dict[str, int] = {}

    def of(self, key: str) -> int:
        """Bytes held for one key."""
        return self._held.get(key, 0)

    def change(self, key: str, by_bytes: int) -> None:
        """Add to a key's bytes; a negative number subtracts."""
        self.total += by_bytes
        held = self.of(key) + by_bytes
        if held:
            self._held[key] = held
        else:
            self._held.pop(key, None)

    def reason_against(self, key: str, more_bytes: int, *, limit_bytes: int) -> str | None:
        """Why a key may not hold more now, or None: its new total must fit into the free bytes.

        A key that holds nothing is refused only if there is no room at all.
        """
        free = limit_bytes - self.total
        if self.of(key) + more_bytes <= free:
            return None
        return (
            f"this server holds {self.total} bytes of features, {self.of(key)} of them this device's, "
            f"and {limit_bytes} is its limit; a device may hold as much as is free"
        )

"""A cache that devices share: a device with more entries than the others loses its own first. Pure.

An entry is held by each device that used it recently, and is removed with its last holder. If the cache is too
large, holdings unused for `HELD_S` end first, the oldest first. After those, the device with the most holdings
loses its least recently used one. So a device that makes a new entry for every request loses its own entries and no
other's.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

#: Seconds after which an unused holding ends first if room is needed.
HELD_S = 60.0
#: Seconds in which further uses of an entry by the same device are not noted.
SAME_USE_S = 0.1

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class SharedCache(Generic[Key, Value]):
    """Values by key, each with a size in a unit of the caller's choice. Not safe for several threads.

    A call costs no more with more devices. The number of holdings is at most the number of entries times devices.

    Attributes:
        size: The sum of all entries' sizes.

    """

    def __init__(self) -> None:
        self.size = 0
        self._entries: dict[Key, tuple[Value, int]] = {}
        self._holders: dict[Key, set[str]] = {}
        self._held: dict[str, OrderedDict[Key, None]] = {}  # by device, the most recently used one last
        self._used_s: OrderedDict[tuple[str, Key], float] = OrderedDict()  # holdings by their last use
        self._sizes: dict[str, int] = {}
        self._by_size: dict[int, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def get(self, key: Key) -> Value | None:
        """Return the value of a key, or None; this does not count as a use."""
        entry = self._entries.get(key)
        return None if entry is None else entry[0]

    def values(self) -> list[Value]:
        """All values."""
        return [value for value, _ in self._entries.values()]

    def use(self, key: Key, value: Value, *, device: str, now_s: float, size: int = 1) -> None:
        """Note a device's use of an entry, which is added if new. It keeps its first value and size.

        Uses within `SAME_USE_S` after the last noted one count as the same use.
        """
        if now_s - self._used_s.get((device, key), -math.inf) < SAME_USE_S:
            return
        if key not in self._entries:
            self._entries[key] = value, size
            self._holders[key] = set()
            self.size += size
        if device not in self._holders[key]:
            self._holders[key].add(device)
            self._held.setdefault(device, OrderedDict())[key] = None
            self._resize(device, self._entries[key][1])
        self._held[device].move_to_end(key)
        self._used_s[device, key] = now_s
        self._used_s.move_to_end((device, key))

    def make_room(
        self, is_over: Callable[[], bool], now_s: float, *, may_go: Callable[[Key], bool] = lambda _: True
    ) -> int:
        """End holdings while ``is_over`` returns true. Returns the number of removed entries.

        Args:
            is_over: Whether the cache is still too large; called after each ended holding.
            now_s: The time.
            may_go: Whether an entry may be removed now. One that may not keeps its holders.

        """
        before = len(self._entries)
        while is_over() and (holding := self._next_to_end(now_s, may_go)) is not None:
            self._end(*holding)
        return before - len(self._entries)

    def _next_to_end(self, now_s: float, may_go: Callable[[Key], bool]) -> tuple[str, Key] | None:
        for holding, used_s in self._used_s.items():
            if used_s >= now_s - HELD_S:
                break
            if may_go(holding[1]):
                return holding
        for size in sorted(self._by_size, reverse=True):
            for device in self._by_size[size]:
                for key in self._held[device]:
                    if may_go(key):
                        return device, key
        return None

    def _end(self, device: str, key: Key) -> None:
        """End one device's holding of an entry, which is removed if it was the last."""
        del self._used_s[device, key]
        del self._held[device][key]
        self._holders[key].remove(device)
        size = self._entries[key][1]
        self._resize(device, -size)
        if not self._held[device]:
            del self._held[device]
        if not self._holders[key]:
            del self._holders[key], self._entries[key]
            self.size -= size

    def _resize(self, device: str, change: int) -> None:
        """Update the counts for a device's new number of holdings."""
        before = self._sizes.pop(device, 0)
        if before:
            self._by_size[before].pop(device)
            if not self._by_size[before]:
                del self._by_size[before]
        after = before + change
        if after:
            self._sizes[device] = after
            self._by_size.setdefault(after, {})[device] = None

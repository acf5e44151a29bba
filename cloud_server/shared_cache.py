"""A cache that devices share: whoever uses more than the others loses its own entries first.

Pure: no threads, no clock. An entry is held by each device that used it of late, and goes with its last holder.
Where there is too much, holdings that nobody used for `HELD_S` end first, the oldest first. After those, the device
that holds most lets go of what it used longest ago. So a device that makes up a new entry for every request loses
its own entries and nobody else's.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

#: A holding that was not used for this long ends where room is needed, whoever holds most.
HELD_S = 60.0
#: Uses of an entry by a device are noted this often, in seconds.
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
        self._held: dict[str, OrderedDict[Key, None]] = {}  # by device, the last used one last
        self._used_s: OrderedDict[tuple[str, Key], float] = OrderedDict()  # holdings by their last use
        self._sizes: dict[str, int] = {}
        self._by_size: dict[int, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def get(self, key: Key) -> Value | None:
        """The value of a key, or None; nobody holds it for that."""
        entry = self._entries.get(key)
        return None if entry is None else entry[0]

    def values(self) -> list[Value]:
        """All values."""
        return [value for value, _ in self._entries.values()]

    def use(self, key: Key, value: Value, *, device: str, now_s: float, size: int = 1) -> None:
        """A device uses this entry now; it is added where it is new. An entry keeps its first value and size.

        Uses less than `SAME_USE_S` after the last one that was noted are that same use.
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
        """End holdings while ``is_over`` says so. Returns the number of entries that went.

        Args:
            is_over: Whether there is too much still; asked again after each holding that ended.
            now_s: The time.
            may_go: Whether an entry may go now. One that may not keeps its holders.

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
        """One device lets go of an entry, which goes where nobody else holds it."""
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
        """Move a device to the others that hold as much as it will."""
        before = self._sizes.pop(device, 0)
        if before:
            self._by_size[before].pop(device)
            if not self._by_size[before]:
                del self._by_size[before]
        after = before + change
        if after:
            self._sizes[device] = after
            self._by_size.setdefault(after, {})[device] = None

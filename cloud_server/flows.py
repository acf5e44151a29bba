"""The fair queue's state of each key: virtual time, waiting jobs, and recent worker time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

import msgspec

#: Time constant in seconds of the recent worker time, which shows the keys that use much.
USE_S = 1.0


class Offered(msgspec.Struct, frozen=True):
    """The result of an offered job: whether it waits now, and the jobs that lost their place to it.

    ``expired``: jobs past their due time. ``displaced``: the job of a device above its share, if one had to go.
    """

    accepted: bool
    expired: tuple[int, ...] = ()
    displaced: int | None = None


class Use:
    """Recent worker time, which fades with the time constant `USE_S`."""

    def __init__(self) -> None:
        self._used_s = self._at_s = 0.0

    def add(self, used_s: float, now_s: float) -> None:
        """Add worker time in seconds."""
        self._used_s, self._at_s = self.at(now_s) + used_s, now_s

    def at(self, now_s: float) -> float:
        """The faded worker time at a moment, in seconds."""
        return self._used_s * math.exp(-max(0.0, now_s - self._at_s) / USE_S)

    def is_over(self, limit_s: float, now_s: float) -> bool:
        """Whether the faded worker time exceeds a limit."""
        return self._used_s > limit_s and self.at(now_s) > limit_s


@dataclass(eq=False, slots=True)
class Flow:
    """One device: its virtual time, and its waiting jobs in order of their due time."""

    key: str
    virtual_ns: int
    weight: int = 1
    last_cost_ns: int = 0
    running: int = 0
    use: Use = field(default_factory=Use)
    turn: int = 0
    work_ns: int = 0
    waiting: list[tuple[float, int]] = field(default_factory=list)

    @property
    def entry(self) -> tuple[int, int, str]:
        return self.virtual_ns, self.turn, self.key


class Counts:
    """Keys of one weight by their number of waiting jobs."""

    def __init__(self) -> None:
        self._by_count: dict[int, dict[str, None]] = {}
        self._most = 0

    def move(self, key: str, before: int, after: int) -> None:
        """Note that a key has one job more or fewer."""
        if before:
            self._by_count[before].pop(key)
            if not self._by_count[before]:
                del self._by_count[before]
        if after:
            self._by_count.setdefault(after, {})[key] = None
        if after > self._most or (before == self._most and before not in self._by_count):
            self._most = after

    def waiting(self) -> Iterator[str]:
        """Number of keys with waiting jobs."""
        return chain.from_iterable(self._by_count.values())

    def most(self) -> tuple[int, str] | None:
        """The maximum number of jobs of one key, and the key that reached it last."""
        return (self._most, next(reversed(self._by_count[self._most]))) if self._most else None

"""Shares a limited resource among users, so that each finds room whatever the others do. Pure."""

from __future__ import annotations

from collections import Counter, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Shares:
    """Amounts that users (uids) hold of a resource, ``limit`` in all.

    No user may hold more than was free before the last piece. One user alone gets half, the next one a quarter, and
    so on: as long as pieces are small against the limit, a user who holds nothing finds room, whatever the others
    do.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self._held: Counter[int] = Counter()

    def held(self, user: int) -> int:
        """Amount that the user holds."""
        return self._held[user]

    def fits(self, user: int, amount: int = 1) -> bool:
        """Whether the user may take ``amount`` more."""
        return self._held[user] + amount <= self.limit - self.total

    def take(self, user: int, amount: int = 1) -> None:
        """Note that the user holds more. Call it only if the amount `fits`."""
        self._held[user] += amount
        self.total += amount

    def give(self, user: int, amount: int = 1) -> None:
        """Note that the user holds less."""
        self._held[user] -= amount
        self.total -= amount
        if not self._held[user]:
            del self._held[user]


class Turns(Generic[T]):
    """A queue that serves users in turn, and the items of one user in order."""

    def __init__(self) -> None:
        self._waiting: dict[int, deque[T]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, user: int, item: T) -> None:
        """Append to the user's own queue."""
        self._waiting.setdefault(user, deque()).append(item)

    def take(self) -> T:
        """Remove and return the first item of the user whose turn it is. `LookupError` if there is none."""
        if not self._waiting:
            raise LookupError("nothing waits")
        user = next(iter(self._waiting))
        queue = self._waiting.pop(user)
        item = queue.popleft()
        if queue:
            self._waiting[user] = queue  # behind all others
        return item

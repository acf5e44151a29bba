"""The noise plans that were made, in memory: no more than a limit, and no device pushes out what another uses."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable

from split_model.privacy import NoisePlan

#: A plan, or why there is none.
Made = NoisePlan | str


class PlanCache:
    """Plans by their bundle, cut and spec. A plan is kept while a device that used it holds it.

    Where there are more than ``limit``, the device that holds most lets go of its least recently used plan: one
    that makes up a new epsilon for every request loses its own plans. Not safe for several threads.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._made: dict[Hashable, Made] = {}
        self._holders: Counter[Hashable] = Counter()
        self._held: dict[str, OrderedDict[Hashable, None]] = {}

    def __len__(self) -> int:
        return len(self._made)

    def get(self, key: Hashable) -> Made | None:
        """What was made, or None; nobody holds it for that."""
        return self._made.get(key)

    def use(self, key: Hashable, made: Made, *, device: str) -> None:
        """A device uses this now; others let go of theirs if it is one too many."""
        self._made.setdefault(key, made)
        held = self._held.setdefault(device, OrderedDict())
        self._holders[key] += key not in held
        held[key] = None
        held.move_to_end(key)
        while len(self._made) > self._limit:
            self._let_go()

    def _let_go(self) -> None:
        device, held = max(self._held.items(), key=lambda item: len(item[1]))
        key, _ = held.popitem(last=False)
        if not held:
            del self._held[device]
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key], self._made[key]

"""What was made of noise specs, in memory: no more than a limit, and no device pushes out what another uses."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from cloud_server.shared_cache import SharedCache
from split_model.privacy import NoiseRecovery

#: What undoes the noise of a plan, or why there is none.
Made = NoiseRecovery | str


class PlanCache:
    """Plans by their bundle, cut and spec, at most ``limit`` (`SharedCache`). Not safe for several threads."""

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._cache: SharedCache[Hashable, Made] = SharedCache()

    def __len__(self) -> int:
        return len(self._cache)

    def get(self, key: Hashable) -> Made | None:
        """What was made, or None; nobody holds it for that."""
        return self._cache.get(key)

    def use(self, key: Hashable, made: Made, *, device: str) -> None:
        """A device uses this now; others let go of theirs if it is one too many."""
        now_s = self._clock()
        self._cache.use(key, made, device=device, now_s=now_s)
        if len(self._cache) > self._limit:
            self._cache.make_room(lambda: len(self._cache) > self._limit, now_s, may_go=lambda other: other != key)

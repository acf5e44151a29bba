"""Caches the plans of noise specs within a limit; no device evicts what another uses."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from cloud_server.shared_cache import SharedCache
from split_model.privacy import NoiseRecovery

#: The recovery of a noise plan, or the reason why there is none.
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
        """Return a cached plan, or None; this does not count as a use."""
        return self._cache.get(key)

    def use(self, key: Hashable, made: Made, *, device: str) -> None:
        """Note a device's use of a plan; if there are too many, others are evicted."""
        now_s = self._clock()
        self._cache.use(key, made, device=device, now_s=now_s)
        if len(self._cache) > self._limit:
            self._cache.make_room(lambda: len(self._cache) > self._limit, now_s, may_go=lambda other: other != key)

"""Remembers the public keys that were refused last, with their counts."""

from __future__ import annotations

from collections import OrderedDict
from types import MappingProxyType


class RefusedKeys:
    """Remembers up to ``limit`` keys; beyond that, the one refused longest ago is dropped."""

    def __init__(self, limit: int = 32) -> None:
        self._limit = limit
        self._times: OrderedDict[str, int] = OrderedDict()
        #: Number of refusals of each key, the latest one last.
        self.times = MappingProxyType(self._times)

    def note(self, key: str) -> bool:
        """Count a refusal. Returns whether this key is new."""
        is_new = key not in self._times
        self._times[key] = self._times.pop(key, 0) + 1
        while len(self._times) > self._limit:
            self._times.popitem(last=False)
        return is_new

    def forget(self, key: str) -> None:
        """Remove a key, if it is known."""
        self._times.pop(key, None)

"""The public keys that were refused last, with how often each."""

from __future__ import annotations

from collections import OrderedDict
from types import MappingProxyType


class RefusedKeys:
    """Remembers ``limit`` keys; where there are more, the one refused longest ago is forgotten."""

    def __init__(self, limit: int = 32) -> None:
        self._limit = limit
        self._times: OrderedDict[str, int] = OrderedDict()
        #: How often each key was refused, the last one last.
        self.times = MappingProxyType(self._times)

    def note(self, key: str) -> bool:
        """Count a refusal. Returns whether this key is a new one."""
        is_new = key not in self._times
        self._times[key] = self._times.pop(key, 0) + 1
        while len(self._times) > self._limit:
            self._times.popitem(last=False)
        return is_new

    def forget(self, key: str) -> None:
        """Forget a key, if it is known."""
        self._times.pop(key, None)

"""The interpreters that a worker keeps, within a bound on the size of their files."""

from __future__ import annotations

from collections import OrderedDict

from cloud_server.tails import Tail, TailId
from split_model.interpreter import Interpreter


class LoadedTails:
    """One worker's interpreters: the last used ones whose files fit ``cache_bytes``, and at least one.

    ``loads``: how often a tail was loaded.
    """

    def __init__(self, tail_threads: int, cache_bytes: int) -> None:
        self._tail_threads = tail_threads
        self._cache_bytes = cache_bytes
        self.loads = 0
        self._loaded: OrderedDict[TailId, tuple[Interpreter, int]] = OrderedDict()

    def get(self, tail: Tail) -> Interpreter:
        """The tail's interpreter, loaded if need be."""
        if tail.id in self._loaded:
            self._loaded.move_to_end(tail.id)
            return self._loaded[tail.id][0]
        size = tail.file.size_bytes
        while self._loaded and sum(held for _, held in self._loaded.values()) + size > self._cache_bytes:
            self._loaded.popitem(last=False)
        self.loads += 1
        interpreter = tail.load(threads=self._tail_threads)
        self._loaded[tail.id] = (interpreter, size)
        return interpreter

"""The decoders of codebooks in memory, the last used ones, within a limit in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from split_model.privacy.codebook_file import Decoder


class DecoderCache:
    """At least one decoder; more while they fit ``limit_bytes``. Safe for several threads.

    A decoder has two bytes for each codeword and feature of a frame.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._decoders: OrderedDict[Hashable, Decoder] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, read: Callable[[], Decoder]) -> Decoder:
        """The decoder of a key; ``read`` is called, without a lock, where it is not in memory."""
        with self._lock:
            found = self._decoders.get(key)
        decoder = read() if found is None else found
        with self._lock:
            self._decoders[key] = decoder
            self._decoders.move_to_end(key)
            while len(self._decoders) > 1 and sum(map(_held_bytes, self._decoders.values())) > self._limit_bytes:
                self._decoders.popitem(last=False)
        return decoder


def _held_bytes(decoder: Decoder) -> int:
    return sum(table.nbytes for table in decoder.tables)

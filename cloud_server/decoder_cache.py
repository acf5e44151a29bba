"""Caches the decoders of codebooks within a limit in bytes; no device evicts what another uses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

from cloud_server.shared_cache import SharedCache
from split_model.privacy.codebook_file import Decoder


class DecoderCache:
    """At least one decoder; more while they fit ``limit_bytes`` (`SharedCache`). Safe for several threads.

    A decoder has two bytes for each codeword and feature of a frame.
    """

    def __init__(self, limit_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._cache: SharedCache[Hashable, Decoder] = SharedCache()
        self._lock = threading.Lock()

    def get(self, key: Hashable, read: Callable[[], Decoder], *, device: str) -> Decoder:
        """Return the decoder of a key; ``read`` is called, without a lock, if it is not in memory."""
        with self._lock:
            found = self._cache.get(key)
        decoder = read() if found is None else found
        now_s = self._clock()
        with self._lock:
            self._cache.use(key, decoder, device=device, now_s=now_s, size=_held_bytes(decoder))
            self._cache.make_room(
                lambda: self._cache.size > self._limit_bytes, now_s, may_go=lambda other: other != key
            )
        return decoder


def _held_bytes(decoder: Decoder) -> int:
    return sum(table.nbytes for table in decoder.tables)

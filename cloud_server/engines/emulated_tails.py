"""Emulates slower tails by sleeping, as the config declares; for tests and demonstrations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from cloud_server.tails import Tail, TailSet
from split_model.arrays import Array
from split_model.bundle import Bundle
from split_model.protocol import messages as wire


class EmulatedTails(TailSet):
    """A `TailSet` that sleeps before each run of a tail.

    Args:
        bundles: As for `TailSet`.
        tail_s: Seconds to sleep.
        sleep: The function that sleeps.

    """

    def __init__(
        self, bundles: Iterable[Bundle], *, tail_s: float, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        super().__init__(bundles)
        self._tail_s = tail_s
        self._sleep = sleep

    def features(self, tail: Tail, release: wire.Release, payload: bytearray, *, device: str) -> list[Array]:
        """See `TailSet.features`."""
        self._sleep(self._tail_s)
        return super().features(tail, release, payload, device=device)


def tail_set(bundles: Iterable[Bundle], *, emulated_tail_s: float) -> TailSet:
    """Make the tails of bundles; ``emulated_tail_s``: seconds that each sleeps before it runs, 0: real ones."""
    return EmulatedTails(bundles, tail_s=emulated_tail_s) if emulated_tail_s else TailSet(bundles)

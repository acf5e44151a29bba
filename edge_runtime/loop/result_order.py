"""Orders the results. Pure."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class ResultOrder(Generic[T]):
    """Delays results until those of earlier frames are there (``in_order``), or passes each on at once."""

    def __init__(self, *, in_order: bool) -> None:
        self._in_order = in_order
        self._held: dict[int, T] = {}

    @property
    def held(self) -> int:
        """Number of results that wait for an earlier one."""
        return len(self._held)

    def ended(self, key: int, result: T, *, oldest: int | None) -> list[T]:
        """Add a frame's result; returns the results to yield now. ``oldest``: the first frame without a result.

        Keys grow with the frames.
        """
        if not self._in_order or (oldest is None and not self._held):
            return [result]
        self._held[key] = result
        ready = sorted(held for held in self._held if oldest is None or held < oldest)
        return [self._held.pop(held) for held in ready]

    def clear(self) -> None:
        """Drop the results that wait."""
        self._held.clear()

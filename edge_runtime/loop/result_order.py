"""The order in which results are handed on. Pure."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class ResultOrder(Generic[T]):
    """Holds results back behind those of earlier frames (``in_order``), or hands each on at once."""

    def __init__(self, *, in_order: bool) -> None:
        self._in_order = in_order
        self._held: dict[int, T] = {}

    @property
    def held(self) -> int:
        """Results that wait for an earlier one."""
        return len(self._held)

    def ended(self, key: int, result: T, *, oldest: int | None) -> list[T]:
        """The results to hand on now that this frame has one; ``oldest``: the first frame that has none yet.

        Keys grow with the frames.
        """
        if not self._in_order or (oldest is None and not self._held):
            return [result]
        self._held[key] = result
        ready = sorted(held for held in self._held if oldest is None or held < oldest)
        return [self._held.pop(held) for held in ready]

    def clear(self) -> None:
        """Hand on none of those that are held."""
        self._held.clear()

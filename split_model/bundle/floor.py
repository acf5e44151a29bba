"""The accuracy floor: the minimum agreement of a cut with the unsplit model under its release."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from split_model.bundle.evaluation import Row
from split_model.privacy import NoiseSpec

#: Number of pictures for reliable figures; with fewer, texts say how many are missing.
ENOUGH = 30
#: Maximum distance of the agreement's one-sided 80 % bound below the floor.
SLACK = 0.1


class Floor(NamedTuple):
    """A floor. ``value``: minimum mean agreement. ``bound``: minimum one-sided 80 % lower bound of it."""

    value: float = 0.9
    bound: float = 0.8

    @classmethod
    def at(cls, value: float) -> Floor:
        """The floor of a mean agreement, its bound a tenth below."""
        return cls(value, max(0.0, round(value - SLACK, 9)))

    def admits(self, row: Row) -> bool:
        """Whether a measurement reaches the floor; one without an agreement does not."""
        share, bound = row.agreement, row.bound
        return share is not None and bound is not None and share.value >= self.value and bound >= self.bound


#: The floor without a config key.
DEFAULT_FLOOR = Floor()


def cheapest(rows: Iterable[Row], floor: Floor) -> Row | None:
    """The row that reaches a floor with the least epsilon, then the fewest bytes; None if none does."""

    def cost(row: Row) -> tuple[float, int]:
        spec = row.spec or row.codebook
        return (0.0 if spec is None else spec.epsilon, row.payload_bytes)

    passing = [row for row in rows if row.mechanism in ("noise", "codebook") and floor.admits(row)]
    return min(passing, key=cost, default=None)


def release_of(row: Row) -> str:
    """The config values of a row's release, as text."""
    if isinstance(row.spec, NoiseSpec):
        return f"epsilon {row.spec.epsilon:g} with {row.spec.bits} bits a value"
    if row.codebook is not None:
        return f"whole_input_epsilon {row.codebook.epsilon:g} with {row.codebook.codewords} codewords"
    return row.mechanism

"""The accuracy floor: how well a cut must agree with the unsplit model, under its release, to be used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from split_model.bundle.evaluation import Row
from split_model.privacy import NoiseSpec

#: Figures on fewer pictures are told with how many more are wanted.
ENOUGH = 30
#: How far below the floor the one-sided 80 % bound of the agreement may lie.
SLACK = 0.1


class Floor(NamedTuple):
    """``value``: the least mean agreement. ``bound``: the least one-sided 80 % lower bound of it."""

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


#: Where the config says nothing.
DEFAULT_FLOOR = Floor()


def cheapest(rows: Iterable[Row], floor: Floor) -> Row | None:
    """The row that reaches a floor with the least epsilon, then the fewest bytes; None where none does."""

    def cost(row: Row) -> tuple[float, int]:
        spec = row.spec or row.codebook
        return (0.0 if spec is None else spec.epsilon, row.payload_bytes)

    passing = [row for row in rows if row.mechanism in ("noise", "codebook") and floor.admits(row)]
    return min(passing, key=cost, default=None)


def release_of(row: Row) -> str:
    """The config values of a row's release, for people."""
    if isinstance(row.spec, NoiseSpec):
        return f"epsilon {row.spec.epsilon:g} with {row.spec.bits} bits a value"
    if row.codebook is not None:
        return f"whole_input_epsilon {row.codebook.epsilon:g} with {row.codebook.codewords} codewords"
    return row.mechanism

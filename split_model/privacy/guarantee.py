"""What a sequence of events guarantees, in one unit: pure ε, ρ (zCDP), and (ε, δ) for any δ.

The unit is the caller's choice of function: `per_value` (one feature value replaced by any other, all else
equal) or `whole_input` (every frame of the sequence replaced by any other). Sums are exact rational numbers;
floats come out rounded up. For the lifetime of a device, add up all its events; a scene that is sent k times is
k events, because its noise averages out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

import msgspec

from split_model.privacy.accountant import rho_of_pure, round_up
from split_model.privacy.conversion import zcdp_epsilon
from split_model.privacy.events import Event, GaussianEvent, LaplaceEvent

_ZERO = Fraction(0)


class Guarantee(msgspec.Struct, frozen=True):
    """A sum of events: ε of those that have a pure ε, the ρ of the same ones, and the ρ of all the others."""

    pure_epsilon: Fraction = _ZERO
    pure_rho: Fraction = _ZERO
    other_rho: Fraction = _ZERO

    def __add__(self, other: Guarantee) -> Guarantee:
        return Guarantee(
            self.pure_epsilon + other.pure_epsilon, self.pure_rho + other.pure_rho, self.other_rho + other.other_rho
        )

    def times(self, count: int) -> Guarantee:
        """The same events ``count`` times over."""
        return Guarantee(self.pure_epsilon * count, self.pure_rho * count, self.other_rho * count)

    @property
    def epsilon(self) -> float:
        """Pure ε; infinite where an event has none."""
        return math.inf if self.other_rho else round_up(self.pure_epsilon)

    @property
    def rho(self) -> float:
        """ρ of zero-concentrated DP."""
        return round_up(self.pure_rho + self.other_rho)

    def epsilon_at(self, delta: float) -> float:
        """The least ε that we can prove at ``delta``: by ρ alone, or by pure ε and the ρ of what has none."""
        rest = round_up(self.other_rho)
        mixed = round_up(self.pure_epsilon) + zcdp_epsilon(rest, delta)
        return min(math.nextafter(mixed, math.inf) if rest else mixed, zcdp_epsilon(self.rho, delta))


def whole_input(events: Iterable[Event]) -> Guarantee:
    """All values of a frame and all frames compose in sequence."""
    total = Guarantee()
    for event in events:
        for count, one in _parts(event):
            total += one.times(count)
    return total


def per_value(event: Event) -> Guarantee:
    """The least protected feature value of one frame; every word of a response counts as reading every value."""
    if not isinstance(event, LaplaceEvent | GaussianEvent):
        return whole_input([event])
    parts = [one for count, one in _parts(event) if count]
    return max(parts, key=lambda one: one.pure_rho + one.other_rho, default=Guarantee())


def _parts(event: Event) -> list[tuple[int, Guarantee]]:
    """How often each guarantee occurs within one event."""
    if isinstance(event, GaussianEvent):
        return [(channel.values, Guarantee(other_rho=Fraction(channel.rho))) for channel in event.channels]
    if isinstance(event, LaplaceEvent):
        return [(channel.values, _pure(channel.epsilon)) for channel in event.channels]
    return [(event.groups, _pure(event.epsilon))]


def _pure(epsilon: float) -> Guarantee:
    return Guarantee(pure_epsilon=Fraction(epsilon), pure_rho=rho_of_pure(epsilon))

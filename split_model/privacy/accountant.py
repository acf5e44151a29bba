"""The price of events in pure ε, in both units, and in the ρ (zCDP) that a pure ε implies.

*Per-value ε*: one feature value replaced by any other, all else equal. *Whole-input ε*: one frame
replaced by any other frame; since that may change every feature value, the values of a frame compose in
sequence, never in parallel. Both are pure (δ = 0). Sums are exact rational numbers; a float is always
the nearest one that is not smaller, so that printed figures never understate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction

import msgspec

from split_model.privacy.events import Event, LaplaceEvent


def round_up(value: Fraction) -> float:
    """The smallest float that is not below ``value``."""
    nearest = float(value)
    return nearest if Fraction(nearest) >= value else math.nextafter(nearest, math.inf)


def round_down(value: Fraction) -> float:
    """The largest float that is not above ``value``."""
    nearest = float(value)
    return nearest if Fraction(nearest) <= value else math.nextafter(nearest, -math.inf)


class Guarantee(msgspec.Struct, frozen=True):
    """Whole-input ε and ρ of a sequence of events, without rounding; each is a separate bound on all of them."""

    pure_epsilon: Fraction = Fraction(0)
    pure_rho: Fraction = Fraction(0)


def whole_input(events: Iterable[Event]) -> Guarantee:
    """Compose events: all values of a frame and all frames in sequence.

    A scene that is sent k times is k events, because its noise averages out.
    """
    parts = [part for event in events for part in _parts(event)]
    return Guarantee(
        pure_epsilon=_sum(parts), pure_rho=sum((count * rho_of_pure(one) for count, one in parts), Fraction(0))
    )


def per_value_epsilon_max(event: LaplaceEvent) -> float:
    """Pure ε of the least protected feature value (one feature value replaced by any other)."""
    return max((channel.epsilon for channel in event.channels), default=0.0)


def per_value_epsilon_mean(event: LaplaceEvent) -> float:
    """Mean over all values of the frame of their pure per-value ε; a budget, not a guarantee."""
    values = sum(channel.values for channel in event.channels)
    return round_up(_sum(_parts(event)) / values) if values else 0.0


def whole_input_epsilon(event: Event) -> float:
    """Pure ε of the frame as a whole (one frame replaced by any other)."""
    return round_up(_sum(_parts(event)))


def _parts(event: Event) -> list[tuple[int, float]]:
    """How often each pure ε occurs within one event."""
    if isinstance(event, LaplaceEvent):
        return [(channel.values, channel.epsilon) for channel in event.channels]
    return [(event.groups, event.epsilon)]


def _sum(parts: Iterable[tuple[int, float]]) -> Fraction:
    return sum((count * Fraction(epsilon) for count, epsilon in parts), Fraction(0))


def rho_of_pure(epsilon: float) -> Fraction:
    """The least ρ for which every pure ε-DP mechanism is ρ-zCDP: ε·tanh(ε/2), rounded up in the 40th digit.

    Among all ε-DP mechanisms randomised response on one bit has the largest Rényi divergences (all others are
    post-processing of it), D_α = (ln cosh((α - ½)·ε) - ln cosh(ε/2))/(α - 1). With u = (α - ½)², ln cosh(ε·√u)
    is concave in u, and its tangent at u = ¼ is what D_α ≤ α·ε·tanh(ε/2) says; at α → 1 the two are equal.
    (Bun and Steinke 2016, Prop. 1.4, have the weaker ε²/2.)
    """
    down = Context(prec=40, rounding=ROUND_FLOOR, Emin=MIN_EMIN, Emax=MAX_EMAX)
    up = Context(prec=40, rounding=ROUND_CEILING, Emin=MIN_EMIN, Emax=MAX_EMAX)
    exact = Decimal(epsilon)
    q_low = down.next_minus(down.exp(exact.copy_negate()))
    return Fraction(up.multiply(exact, up.divide(up.subtract(Decimal(1), q_low), down.add(Decimal(1), q_low))))

"""What events of pure DP cost: ε in both units, composed over frames; and the ρ that a pure ε implies.

*Per-value ε*: one feature value replaced by any other, all else equal. *Whole-input ε*: one frame
replaced by any other frame; since that may change every feature value, the values of a frame compose in
sequence, never in parallel. Both are pure (δ = 0). Sums are exact rational numbers; a float is always
the nearest one that is not smaller, so that what is printed never understates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction

from split_model.privacy.events import LaplaceEvent


def round_up(value: Fraction) -> float:
    """The smallest float that is not below ``value``."""
    nearest = float(value)
    return nearest if Fraction(nearest) >= value else math.nextafter(nearest, math.inf)


def round_down(value: Fraction) -> float:
    """The largest float that is not above ``value``."""
    nearest = float(value)
    return nearest if Fraction(nearest) <= value else math.nextafter(nearest, -math.inf)


def per_value_epsilon_max(event: LaplaceEvent) -> float:
    """Pure ε of the least protected feature value (one feature value replaced by any other)."""
    return max((channel.epsilon for channel in event.channels), default=0.0)


def per_value_epsilon_mean(event: LaplaceEvent) -> float:
    """Mean over all values of the frame of their pure per-value ε; a budget, not a guarantee."""
    values = sum(channel.values for channel in event.channels)
    return round_up(whole_input_epsilon_exact([event]) / values) if values else 0.0


def whole_input_epsilon(event: LaplaceEvent) -> float:
    """Pure ε of the frame as a whole (one frame replaced by any other)."""
    return round_up(whole_input_epsilon_exact([event]))


def composed_whole_input_epsilon(events: Iterable[LaplaceEvent]) -> float:
    """Pure ε of a sequence of frames together (all of them replaced by any others): the sum."""
    return round_up(whole_input_epsilon_exact(events))


def whole_input_epsilon_exact(events: Iterable[LaplaceEvent]) -> Fraction:
    """The sum over frames and over all values of a frame, without rounding."""
    return sum(
        (channel.values * Fraction(channel.epsilon) for event in events for channel in event.channels),
        Fraction(0),
    )


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

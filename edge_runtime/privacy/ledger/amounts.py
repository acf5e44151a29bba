"""Costs of releases as integers: their sums are exact, and no small charge is lost to rounding.

One unit is 2^-40 of an ε or a ρ. A cost is rounded up to whole units, a budget down.
"""

from __future__ import annotations

import math
from fractions import Fraction

import msgspec

from split_model.privacy import LaplaceEvent, ResponseEvent, whole_input
from split_model.privacy.accountant import round_up

_UNIT = 1 << 40


class Amount(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The sum of some releases: pure whole-input ε and ρ (zCDP) in units, their number, the unprotected ones.

    ε and ρ are two bounds on the same releases; either one holds, and they are never added to each other.
    Unprotected releases have no ε at all, so they are counted but have no price.
    """

    epsilon: int = 0
    rho: int = 0
    releases: int = 0
    unprotected: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.epsilon + other.epsilon,
            self.rho + other.rho,
            self.releases + other.releases,
            self.unprotected + other.unprotected,
        )

    def __sub__(self, other: Amount) -> Amount:
        return self + other * -1

    def __mul__(self, times: int) -> Amount:
        return Amount(self.epsilon * times, self.rho * times, self.releases * times, self.unprotected * times)

    def covers(self, other: Amount) -> bool:
        """Whether ``other`` can be subtracted without any part going below zero."""
        rest = self - other
        return min(rest.epsilon, rest.rho, rest.releases, rest.unprotected) >= 0


#: One release of unprotected features.
UNPROTECTED = Amount(releases=1, unprotected=1)


def of_event(event: LaplaceEvent | ResponseEvent) -> Amount:
    """Cost of one frame under this release."""
    guarantee = whole_input([event])
    return Amount(
        epsilon=math.ceil(guarantee.pure_epsilon * _UNIT), rho=math.ceil(guarantee.pure_rho * _UNIT), releases=1
    )


def epsilon_units(epsilon: float) -> int:
    """Convert a budget to units, rounded down."""
    return math.floor(Fraction(epsilon) * _UNIT)


def as_float(units: int) -> float:
    """Convert units to ε or ρ: the smallest float that is not below."""
    return round_up(Fraction(units, _UNIT))

"""The integer grid of one value: its steps, and the reach of the noise on the wire.

A clipped value becomes an integer 0..L (``steps``). Discrete Laplace noise with P(x) ∝ exp(-abs(x)·ε/L)
is added and the sum is clamped to the wire range [-T, 2^bits - 1 - T], T = ``tail``. Clamping comes after the
noise, so it costs no privacy. The range must include the tails of the noise, because clamping to [0, L] would push
every value near an end inwards, and a network adds that bias up over its many values.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from fractions import Fraction
from functools import cache

import msgspec

from split_model.errors import ConfigError
from split_model.privacy.laplace_cdf import cdf_floors

#: The wire range includes the noise up to this many noise scales (L/ε) beyond either end; exp(-6) of it is outside.
#: Computed for ε = 1..64: a value at the rim is then biased by at most 0.13 % of a noise
#: scale for 4 to 8 bits (1 % with 4 scales, 2.4 % with 3), and the energy is that of 8 scales within 3 %
#: from 5 bits on. Fewer scales would give a finer grid, but its rounding error is negligible anyway (at 8 bits 0.4
#: % at most).
TAIL_SCALES = 6
MIN_BITS, MAX_BITS = 4, 8


class Grid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Per-value ε, L (``steps``), T (``tail``), and the largest integer on the wire (2^bits - 1)."""

    epsilon: float
    steps: int
    tail: int
    wire_max: int

    @property
    def bound(self) -> int:
        """Noise of this size or more ends at a limit of the wire range for any value."""
        return self.wire_max - self.tail

    def floors(self, bits: int) -> list[int]:
        """floor(2^bits · P(noise ≤ x)) for x = -bound..bound-1: discrete Laplace with rate ε/L."""
        return cdf_floors(self.epsilon, self.steps, self.bound, bits)


@cache
def least_epsilon(bits: int) -> float:
    """The smallest per-value ε whose noise fits into ``bits`` bits (with L = 1), rounded up."""
    exact = Fraction(TAIL_SCALES, (1 << (bits - 1)) - 1)
    nearest = float(exact)
    return nearest if Fraction(nearest) >= exact else math.nextafter(nearest, math.inf)


def make_grid(epsilon: float, bits: int) -> Grid:
    """The finest grid whose noise fits: the largest L with L + 2·ceil(TAIL_SCALES·L/ε) ≤ 2^bits - 1.

    Rational arithmetic, so every machine finds the same integers. Raises `ConfigError` below
    `least_epsilon`, where even L = 1 would lose the tails of the noise.
    """
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ConfigError(f"bits = {bits}", remedy=f"a value takes {MIN_BITS} to {MAX_BITS} bits on the wire")
    if epsilon < least_epsilon(bits):
        raise ConfigError(
            f"per-value epsilon {epsilon:g} is too small for {bits} bits a value, whose least is "
            f"{least_epsilon(bits):.3g}",
            remedy="raise epsilon or bits",
        )
    wire_max = (1 << bits) - 1
    scales, each = (TAIL_SCALES / Fraction(epsilon)).as_integer_ratio()
    steps = bisect_right(range(wire_max - 1), wire_max, key=lambda steps: steps - 2 * (-scales * steps // each)) - 1
    return Grid(epsilon=epsilon, steps=steps, tail=(wire_max - steps) // 2, wire_max=wire_max)

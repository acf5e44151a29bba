"""The discrete Gaussian on the integer grid: exact thresholds, and the grid whose tails the wire carries.

A clipped value becomes an integer 0..L; noise with P(x) ∝ exp(-x²·ρ/L²) is added, a discrete Gaussian with
σ² = L²/(2ρ), and the sum is clamped to the wire range. One value replaced by any other moves the integer by at
most L, and the discrete Gaussian then is exactly L²/(2σ²) = ρ-zCDP (Canonne, Kamath, Steinke 2020, Prop. 5).
Clamping comes after the noise. All that lies beyond the wire's rim is counted into the rim, so no truncation
has to be paid for with a δ.
"""

from __future__ import annotations

import math
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from itertools import accumulate

import msgspec

from split_model.errors import ConfigError, SplitModelError
from split_model.privacy.grid import MAX_BITS, MIN_BITS

#: The wire carries the noise up to so many σ beyond either rim; a value at the rim is then biased by 0.04 % of σ.
TAIL_SIGMAS = 3
_MAX_DIGITS = 1 << 14


class GaussianGrid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Per-value ρ, L (``steps``), T (``tail``), and the largest integer on the wire (2^bits - 1)."""

    rho: float
    steps: int
    tail: int
    wire_max: int

    @property
    def bound(self) -> int:
        """Noise of this size or more ends at a rim of the wire range whatever the value was."""
        return self.wire_max - self.tail

    def floors(self, bits: int) -> list[int]:
        """floor(2^bits · P(noise ≤ x)) for x = -bound..bound-1."""
        return gaussian_cdf_floors(self.rho, self.steps, self.bound, bits)


def make_gaussian_grid(rho: float, bits: int) -> GaussianGrid:
    """The finest grid whose noise fits: the largest L with L + 2·ceil(3σ) ≤ 2^bits - 1, σ = L/√(2ρ).

    Integer arithmetic, so every machine finds the same. Raises `ConfigError` where even L = 1 would lose the tails.
    """
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ConfigError(f"bits = {bits}", remedy=f"a value takes {MIN_BITS} to {MAX_BITS} bits on the wire")
    if not 0 < rho < math.inf:
        raise ConfigError(f"per-value rho = {rho:g}", remedy="it must be above 0 and finite")
    wire_max = (1 << bits) - 1
    for steps in range(wire_max - 2, 0, -1):
        if steps + 2 * _tail(steps, Fraction(rho)) <= wire_max:
            return GaussianGrid(rho=rho, steps=steps, tail=(wire_max - steps) // 2, wire_max=wire_max)
    raise ConfigError(f"per-value rho {rho:g} is too small for {bits} bits a value", remedy="raise rho or bits")


def _tail(steps: int, rho: Fraction) -> int:
    """ceil(TAIL_SIGMAS·σ), exactly: the least t with t² ≥ TAIL_SIGMAS²·L²/(2ρ)."""
    square = TAIL_SIGMAS**2 * steps**2 / (2 * rho)
    root = math.isqrt(math.ceil(square))
    return root if root**2 >= square else root + 1


def gaussian_cdf_floors(rho: float, steps: int, bound: int, bits: int) -> list[int]:
    """floor(2^bits · P(X ≤ x)) for x = -bound..bound-1, ascending, P(X = x) ∝ exp(-x²·rho/steps²).

    Each number is enclosed in an interval: directed rounding throughout, and the normaliser's infinite sum cut
    where a proven bound on the rest is below the precision. The precision doubles until both ends have the same
    floor. Nobody has proved that no P(X ≤ x) is a dyadic rational, as for Laplace; should one ever be, precision
    would not end it, and `SplitModelError` is raised instead: a refusal, never a wrong probability.
    """
    digits = int(bits * 0.302) + 24
    while digits <= _MAX_DIGITS:
        floors = _floors(Fraction(rho), steps, bound, bits, digits)
        if floors is not None:
            return floors
        digits *= 2
    raise SplitModelError(
        f"rho = {rho!r} over {steps} steps has no thresholds in {bits} bits", remedy="choose another rho"
    )


def _floors(rho: Fraction, steps: int, bound: int, bits: int, digits: int) -> list[int] | None:
    down = Context(prec=digits, rounding=ROUND_FLOOR, Emin=MIN_EMIN, Emax=MAX_EMAX)
    up = Context(prec=digits, rounding=ROUND_CEILING, Emin=MIN_EMIN, Emax=MAX_EMAX)
    rate = rho / steps**2
    numerator, denominator = Decimal(rate.numerator), Decimal(rate.denominator)
    q_low = down.next_minus(down.exp(up.divide(numerator, denominator).copy_negate()))
    q_high = up.next_plus(up.exp(down.divide(numerator, denominator).copy_negate()))
    count = max(bound, math.isqrt(math.ceil((digits + 2) * Fraction(2303, 1000) / rate)) + 1)
    low, high = _terms(q_low, count, down), _terms(q_high, count, up)
    # Beyond term j the terms shrink by q^(2j+1) and more: the rest is below a geometric series.
    rest = up.divide(up.multiply(high[-1], _power(q_high, 2 * count + 1, up)), down.subtract(Decimal(1), q_high))
    low_tails = list(accumulate(reversed(low), down.add))[::-1]
    high_tails = [up.add(tail, rest) for tail in list(accumulate(reversed(high), up.add))[::-1]]
    low_all = down.add(Decimal(1), down.multiply(Decimal(2), low_tails[0]))
    high_all = up.add(Decimal(1), up.multiply(Decimal(2), high_tails[0]))
    scale = Decimal(1 << bits)
    tails = []
    for low_tail, high_tail in zip(low_tails[:bound], high_tails[:bound], strict=True):
        least = int(down.divide(down.multiply(low_tail, scale), high_all))
        if least != int(up.divide(up.multiply(high_tail, scale), low_all)):
            return None
        tails.append(least)
    top = (1 << bits) - 1
    return [*reversed(tails), *(top - tail for tail in tails)]


def _terms(q: Decimal, count: int, context: Context) -> list[Decimal]:
    """q^(j²) for j = 1..count, each a bound in the context's direction."""
    square, step, term = context.multiply(q, q), q, q
    terms = [term]
    for _ in range(count - 1):
        step = context.multiply(step, square)
        term = context.multiply(term, step)
        terms.append(term)
    return terms


def _power(base: Decimal, exponent: int, context: Context) -> Decimal:
    """base^exponent by squaring, a bound in the context's direction."""
    result = Decimal(1)
    while exponent:
        if exponent & 1:
            result = context.multiply(result, base)
        base = context.multiply(base, base)
        exponent >>= 1
    return result

"""Exact thresholds of the discrete Laplace distribution: floor(2^n · F(x)), proven, not rounded.

With q = exp(-ε/L), P(X ≤ -m) = q^m/(1 + q) for m ≥ 1 and F(x) = 1 - q^(x+1)/(1 + q) for x ≥ 0. As ε/L is
rational and not 0, q is transcendental (Lindemann), so no F(x) is a dyadic rational: a uniform number is
separated from it after finitely many bits, and floor(2^n·(1 - y)) = 2^n - 1 - floor(2^n·y).
"""

from __future__ import annotations

from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, ROUND_FLOOR, Context, Decimal


def tail_floors(epsilon: float, steps: int, count: int, bits: int) -> list[int]:
    """floor(2^bits · q^m/(1 + q)) for m = 1..count, q = exp(-epsilon/steps).

    ``epsilon`` is taken as the exact dyadic rational that the float is. Each number is enclosed in an
    interval by directed rounding; precision doubles until both ends have the same floor.
    """
    digits = int(bits * 0.302) + 16
    while True:
        floors = _tail_floors(epsilon, steps, count, bits, digits)
        if floors is not None:
            return floors
        digits *= 2


def _tail_floors(epsilon: float, steps: int, count: int, bits: int, digits: int) -> list[int] | None:
    down = Context(prec=digits, rounding=ROUND_FLOOR, Emin=MIN_EMIN, Emax=MAX_EMAX)
    up = Context(prec=digits, rounding=ROUND_CEILING, Emin=MIN_EMIN, Emax=MAX_EMAX)
    rate = Decimal(epsilon)  # exact
    # exp is within one unit in the last place, so the neighbours enclose it
    # (copy_negate, because the minus sign would round to the thread's own context).
    q_low = down.next_minus(down.exp(up.divide(rate, Decimal(steps)).copy_negate()))
    q_high = up.next_plus(up.exp(down.divide(rate, Decimal(steps)).copy_negate()))
    scale = Decimal(1 << bits)
    low = down.divide(down.multiply(q_low, scale), up.add(1, q_high))
    high = up.divide(up.multiply(q_high, scale), down.add(1, q_low))
    floors = []
    for _ in range(count):
        if int(low) != int(high):  # both are ≥ 0, so int() is floor
            return None
        floors.append(int(low))
        low, high = down.multiply(low, q_low), up.multiply(high, q_high)
    return floors


def cdf_floors(epsilon: float, steps: int, bound: int, bits: int) -> list[int]:
    """floor(2^bits · P(X ≤ x)) for x = -bound..bound-1, ascending: 2·bound integers below 2^bits.

    Inversion with these gives discrete Laplace noise clamped to [-bound, bound]: outcomes beyond are added to the
    bound exactly.
    """
    tails = tail_floors(epsilon, steps, bound, bits)
    top = (1 << bits) - 1
    return [*reversed(tails), *(top - tail for tail in tails)]

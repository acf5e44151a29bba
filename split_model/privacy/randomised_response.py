"""Exact k-ary randomised response: sends the true one of k codewords with odds e^ε to 1 against any other.

The true codeword is kept with probability p = e^ε/(e^ε + k - 1), else one of the k - 1 others is sent, each alike.
So the probabilities of any output under any two inputs differ by a factor of e^ε at most: pure ε in the whole
input, whatever the encoder computes.
"""

from __future__ import annotations

from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, ROUND_FLOOR, Context, Decimal

from split_model.bundle.manifest import MAX_CODEWORDS
from split_model.errors import BadInputError, ConfigError, SplitModelError
from split_model.privacy.events import ResponseEvent
from split_model.privacy.sampler import Entropy

MAX_EPSILON = 64.0
_BITS = 64
_BYTES = _BITS // 8


def keep_floor(epsilon: float, codewords: int, bits: int) -> int:
    """floor(2^bits · p), p = 1/(1 + (k - 1)·e^-ε), proven by directed rounding.

    ``epsilon`` is taken as the exact dyadic rational that the float is. As it is not 0, e^-ε is transcendental
    (Lindemann), so 2^bits·p is no integer and the precision that tells its floor is finite.
    """
    digits = int(bits * 0.302) + 16
    rate = Decimal(epsilon).copy_negate()
    others = Decimal(codewords - 1)
    scale = Decimal(1 << bits)
    while True:
        down = Context(prec=digits, rounding=ROUND_FLOOR, Emin=MIN_EMIN, Emax=MAX_EMAX)
        up = Context(prec=digits, rounding=ROUND_CEILING, Emin=MIN_EMIN, Emax=MAX_EMAX)
        q_low, q_high = down.next_minus(down.exp(rate)), up.next_plus(up.exp(rate))
        low = down.divide(scale, up.add(Decimal(1), up.multiply(others, q_high)))
        high = up.divide(scale, down.add(Decimal(1), down.multiply(others, q_low)))
        if int(low) == int(high):
            return int(low)
        digits *= 2


class RandomisedResponse:
    """``codewords`` k of 2 to 65,536, pure ``epsilon`` above 0 and at most 64; `ConfigError` otherwise.

    ``entropy(n)`` gives n fresh bytes from a source fit for cryptography, such as `os.urandom`. The same draws are
    made for every codeword, kept or not, so the time reveals nothing about it.
    """

    def __init__(self, codewords: int, epsilon: float, *, entropy: Entropy) -> None:
        if not 2 <= codewords <= MAX_CODEWORDS:
            raise ConfigError(f"codewords = {codewords}", remedy=f"randomised response takes 2 to {MAX_CODEWORDS}")
        if not 0 < epsilon <= MAX_EPSILON:
            raise ConfigError(
                f"epsilon = {epsilon:g}",
                remedy=f"randomised response takes more than 0 and at most {MAX_EPSILON:g}",
            )
        self.codewords = codewords
        self.epsilon = epsilon
        self._entropy = entropy
        self._floor = keep_floor(epsilon, codewords, _BITS)

    def event(self, groups: int = 1) -> ResponseEvent:
        """The event of sending ``groups`` codewords of one frame, for the accountant."""
        return ResponseEvent(groups=groups, epsilon=self.epsilon)

    def __call__(self, codeword: int) -> int:
        """Return the codeword to send for ``codeword``, 0..k-1, with fresh randomness."""
        if not 0 <= codeword < self.codewords:
            raise BadInputError(f"codeword {codeword} of {self.codewords}: the codebook and the response differ")
        keep = int(self._keep())
        other = self._below(self.codewords - 1)
        other += int(other >= codeword)
        return keep * codeword + (1 - keep) * other

    def _keep(self) -> bool:
        """True with probability p, exactly: a uniform number is revealed until its side of p is clear."""
        prefix, floor, bits = self._fresh(), self._floor, _BITS
        while prefix == floor:
            bits += _BITS
            prefix = prefix << _BITS | self._fresh()
            floor = keep_floor(self.epsilon, self.codewords, bits)
        return prefix < floor

    def _below(self, count: int) -> int:
        """Uniform in 0..count-1, by rejection."""
        limit = (1 << _BITS) // count * count
        while (drawn := self._fresh()) >= limit:
            pass
        return drawn % count

    def _fresh(self) -> int:
        block = self._entropy(_BYTES)
        if len(block) != _BYTES:
            raise SplitModelError(
                f"entropy source gave {len(block)} bytes of {_BYTES}", remedy="nothing is released"
            )
        return int.from_bytes(block, "little")

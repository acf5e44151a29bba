"""k-ary randomised response: probabilities recomputed, draws counted, the claim audited, no tell-tale draws."""

from __future__ import annotations

import math
import os
import random
from fractions import Fraction

import pytest

from split_model.errors import BadInputError, ConfigError, SplitModelError
from split_model.privacy import RandomisedResponse, whole_input
from split_model.privacy.randomised_response import keep_floor

SIGNIFICANCE = 1e-6
TRIALS = 60_000


def exp_bounds(value: Fraction) -> tuple[Fraction, Fraction]:
    """e^value for value ≥ 0 between two rational numbers, by the series and a bound on its rest."""
    term, total = Fraction(1), Fraction(0)
    count = 60 + 8 * math.ceil(value)
    for index in range(count):
        total += term
        term = term * value / (index + 1)
    return total, total + 2 * term  # the ratio of the terms is below 1/2 by now


@pytest.mark.parametrize("codewords", [2, 3, 32, 1000, 65536])
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 6.0, 8.0, 20.0])
@pytest.mark.parametrize("bits", [16, 64, 128])
def test_the_threshold_by_rational_arithmetic(codewords, epsilon, bits):
    low, high = exp_bounds(Fraction(epsilon))
    assert math.floor(low / (low + codewords - 1) * (1 << bits)) == keep_floor(epsilon, codewords, bits)
    assert math.floor(high / (high + codewords - 1) * (1 << bits)) == keep_floor(epsilon, codewords, bits)


def divergence(share, probability):
    pairs = ((share, probability), (1 - share, 1 - probability))
    return sum(a * math.log(a / b) for a, b in pairs if a > 0)


@pytest.mark.parametrize(
    ("codewords", "epsilon", "codeword"), [(2, 1.0, 0), (5, 1.0, 0), (5, 2.0, 4), (32, 3.0, 17)]
)
def test_every_word_comes_as_often_as_it_should(codewords, epsilon, codeword):
    response = RandomisedResponse(codewords, epsilon, entropy=os.urandom)
    counts = [0] * codewords
    for _ in range(TRIALS):
        counts[response(codeword)] += 1
    for sent, count in enumerate(counts):
        probability = (math.exp(epsilon) if sent == codeword else 1.0) / (math.exp(epsilon) + codewords - 1)
        assert TRIALS * divergence(count / TRIALS, probability) < math.log(2 * codewords / SIGNIFICANCE)


def bound_on(seen, trials, error, side):
    """The true probability is not beyond this, but for a chance of ``error`` (Chernoff)."""
    share = seen / trials
    near, far = share, float(side)
    for _ in range(60):
        middle = (near + far) / 2
        inside = 0 < middle < 1 and trials * divergence(share, middle) < math.log(1 / error)
        near, far = (middle, far) if inside else (near, middle)
    return far


def audit(response):
    """A lower bound on ε from the bytes sent for codewords 0 and 1."""
    seen = [[response(codeword).to_bytes(1, "little")[0] for _ in range(TRIALS)] for codeword in (0, 1)]
    error = SIGNIFICANCE / (4 * response.codewords)
    best = 0.0
    for codeword in range(response.codewords):
        for one, other in (seen, seen[::-1]):
            rare = bound_on(other.count(codeword), TRIALS, error, 1)
            best = max(best, math.log(max(bound_on(one.count(codeword), TRIALS, error, 0), 1e-9) / rare))
    return best


def test_the_claim_holds_and_is_tight():
    assert 0.85 < audit(RandomisedResponse(4, 1.0, entropy=os.urandom)) <= 1.0


def test_too_small_a_share_of_lies_is_found():
    assert audit(RandomisedResponse(4, 1.5, entropy=os.urandom)) > 1.0


def test_randomness_that_repeats_is_found():
    response = RandomisedResponse(4, 1.0, entropy=lambda count: random.Random(1).randbytes(count))
    assert audit(response) > 1.0


def test_a_tie_is_broken_with_more_bits():
    floor = keep_floor(2.0, 7, 64)
    longer = keep_floor(2.0, 7, 128) & ((1 << 64) - 1)
    for codeword, kept in ((longer - 1, True), (longer + 1, False)):
        stream = [floor, codeword, 5]
        response = RandomisedResponse(7, 2.0, entropy=lambda _, s=stream: s.pop(0).to_bytes(8, "little"))
        assert (response(3) == 3) is kept
        assert stream == []


def test_the_draws_are_the_same_whether_the_word_is_kept_or_not():
    """Else the time, or the entropy taken, would tell."""
    for first in (0, (1 << 64) - 1):
        for codeword in (0, 4):
            asked = []

            def entropy(count, first=first, asked=asked):
                asked.append(count)
                return (first if len(asked) == 1 else 12).to_bytes(count, "little")

            RandomisedResponse(5, 1.0, entropy=entropy)(codeword)
            assert asked == [8, 8]


def test_no_remainder_is_favoured():
    """2^64 is no multiple of 3; what is left over is drawn again."""
    stream = [(1 << 64) - 1, (1 << 64) - 1, 2]
    response = RandomisedResponse(4, 1.0, entropy=lambda _: stream.pop(0).to_bytes(8, "little"))
    assert response(0) == 3
    assert stream == []


def test_the_event_is_pure_and_the_same_in_both_units():
    event = RandomisedResponse(32, 8.0, entropy=os.urandom).event(groups=4)
    assert whole_input([event]).pure_epsilon == 32


@pytest.mark.parametrize(("codewords", "epsilon"), [(1, 1.0), (65537, 1.0), (2, 0.0), (2, math.nan), (2, 65.0)])
def test_what_cannot_be_is_refused(codewords, epsilon):
    with pytest.raises(ConfigError):
        RandomisedResponse(codewords, epsilon, entropy=os.urandom)


def test_a_word_that_is_none_and_a_source_that_runs_dry():
    with pytest.raises(BadInputError):
        RandomisedResponse(4, 1.0, entropy=os.urandom)(4)
    with pytest.raises(SplitModelError, match="nothing is released"):
        RandomisedResponse(4, 1.0, entropy=lambda count: bytes(count - 1))(0)

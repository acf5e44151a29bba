"""The link's estimate, whatever is measured."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.link.estimator import MAX_BYTES_S, MIN_BYTES_S, LinkEstimator

samples = st.lists(
    st.tuples(st.floats(0.0, 5.0), st.floats(100.0, 1e6), st.floats(0.001, 5.0)), min_size=1, max_size=30
)


def fed(measured: list[tuple[float, float, float]]) -> tuple[LinkEstimator, float]:
    link, now_s = LinkEstimator(), 10.0
    for pause_s, size_bytes, seconds in measured:
        now_s += pause_s
        link.transferred(size_bytes, seconds, at_s=now_s)
    return link, now_s


@given(samples, st.floats(0.0, 100.0))
def test_the_estimate_is_within_what_was_measured(
    measured: list[tuple[float, float, float]], later_s: float
) -> None:
    link, now_s = fed(measured)
    found = link.estimate(now_s + later_s)
    rates = [min(MAX_BYTES_S, max(MIN_BYTES_S, size / seconds)) for _, size, seconds in measured]
    assert found.uplink_bytes_s is not None
    assert min(rates) * (1 - 1e-9) <= found.uplink_bytes_s <= max(rates) * (1 + 1e-9)
    assert found.rate_spread >= 0.0


@given(samples, st.floats(0.0, 20.0), st.floats(0.0, 20.0))
def test_looking_ahead_is_the_estimate_of_then(
    measured: list[tuple[float, float, float]], first_s: float, second_s: float
) -> None:
    link, now_s = fed(measured)
    then = link.estimate(now_s + first_s + second_s)
    ahead = link.estimate(now_s + first_s).ahead(second_s)
    assert ahead.uplink_bytes_s == pytest.approx(then.uplink_bytes_s, rel=1e-6)
    assert ahead.rate_spread == pytest.approx(then.rate_spread, rel=1e-6, abs=1e-9)


@given(st.floats(1e5, 1e7))
def test_a_steady_link_becomes_known_and_is_forgotten_slowly(rate: float) -> None:
    link, now_s = fed([(0.2, rate * 0.1, 0.1)] * 50)
    known = link.estimate(now_s)
    assert known.uplink_bytes_s == pytest.approx(rate)
    assert known.rate_spread < 0.2
    spreads = [link.estimate(now_s + age_s).rate_spread for age_s in (0.0, 1.0, 3.0, 10.0)]
    assert spreads == sorted(spreads)


@given(st.lists(st.floats(0.0, 2.0), min_size=1, max_size=20))
def test_the_round_trip_is_one_that_was_measured_lately(trips: list[float]) -> None:
    link = LinkEstimator()
    for seconds in trips:
        link.round_trip(seconds)
    assert link.estimate(0.0).rtt_s in trips[-8:]


def test_an_unknown_link_says_so() -> None:
    found = LinkEstimator().estimate(0.0)
    assert found.uplink_bytes_s is None
    assert found.rate_spread == math.inf


def test_a_few_packets_say_less_than_many() -> None:
    """A token bucket lets the first of them through at once: what is timed over a few is off by as much."""
    few, many = LinkEstimator(), LinkEstimator()
    for link, size_bytes in ((few, 4_000.0), (many, 40_000.0)):
        link.transferred(40_000.0, 0.4, at_s=0.0)
        link.transferred(size_bytes, size_bytes / 200_000, at_s=1.0)
    sure, unsure = many.estimate(1.0), few.estimate(1.0)
    assert sure.uplink_bytes_s is not None
    assert unsure.uplink_bytes_s is not None
    assert 1e5 < unsure.uplink_bytes_s < sure.uplink_bytes_s < 2e5
    assert unsure.rate_spread > sure.rate_spread


@given(samples)
def test_samples_out_of_order_or_of_nothing_do_no_harm(measured: list[tuple[float, float, float]]) -> None:
    link, now_s = fed(measured)
    link.transferred(0.0, 0.0, at_s=now_s)
    link.transferred(1000.0, 0.5, at_s=now_s - 3.0)
    link.transferred(1000.0, 0.0, at_s=now_s)
    found = link.estimate(now_s)
    assert found.uplink_bytes_s is not None
    assert math.isfinite(found.uplink_bytes_s)

"""Crossover uplinks: they partition the line, and each is where the planner's prediction changes its mind."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.bench.figures import CutFigures, LinkFigures, Range, Spread
from edge_runtime.bench.recommend import ASSUMED_ROUND_TRIP_S, recommend
from edge_runtime.link.estimator import wire_bytes

#: Payloads with their headers.
SMALL, LARGE = wire_bytes(10_000, 10_000), wire_bytes(80_000, 80_000)
SHARES = {1: 0.9, 2: 0.5, 3: 0.1}


def cut(
    split: int, head_s: float, payload_bytes: int, *, tail_s: float | None = 0.01, allowed: bool = True
) -> CutFigures:
    return CutFigures(
        split=split,
        name=str(split) if payload_bytes else "local",
        allowed=allowed,
        head=Spread.of([head_s]),
        release=Spread.of([0.0]),
        payload_bytes=payload_bytes,
        first_s=head_s,
        warm_up_runs=2,
        runs=1,
        load_s=None,
        rss_delta_bytes=None,
        temperature_before_c=None,
        temperature_after_c=None,
        throttled=None,
        tail_s=tail_s,
    )


def link(uplink_mbit_s: float | None = 8.0, round_trip_s: float | None = 0.04) -> LinkFigures:
    return LinkFigures(
        address="tcp://x:1", reachable=True, round_trip_s=round_trip_s, uplink_mbit_s=uplink_mbit_s, queue_s=0.0
    )


CUTS = (cut(1, 0.05, 80_000), cut(2, 0.15, 10_000), cut(9, 0.4, 0))


def found(*cuts: CutFigures, measured: LinkFigures | None = None, objective: str = "latency") -> tuple[Range, ...]:
    return recommend(cuts, measured, tail_shares=SHARES, objective=objective).ranges  # type: ignore[arg-type]


def test_crossovers_where_the_predictions_are_equal() -> None:
    ranges = found(*CUTS, measured=link())
    assert [part.name for part in ranges] == ["local", "2", "1"]
    # local 0.4 = 0.15 + 10 kB / r + 0.04 + 0.01; 0.15 + 10 kB / r = 0.05 + 80 kB / r
    assert ranges[0].to_mbit_s == pytest.approx(8e-6 * SMALL / 0.2, rel=1e-6)
    assert ranges[1].to_mbit_s == pytest.approx(8e-6 * (LARGE - SMALL) / 0.1, rel=1e-6)


def test_the_best_split_on_the_link_as_it_is() -> None:
    told = recommend(CUTS, link(2.0), tail_shares=SHARES, objective="latency")
    assert told.here == 2
    assert told.frame_s == pytest.approx(0.15 + SMALL / 250_000 + 0.04 + 0.01)
    assert told.local_s == 0.4
    assert told.assumed == ()


def test_throughput_looks_at_the_slowest_stage() -> None:
    # At 2 Mbit/s cut 2 sends for 40 ms and computes for 150; cut 1 would send for 320 ms.
    told = recommend(CUTS, link(2.0), tail_shares=SHARES, objective="throughput")
    assert told.here == 2
    assert told.frame_s == pytest.approx(0.15)
    crossovers = [part.to_mbit_s for part in told.ranges]
    assert crossovers[1] == pytest.approx(8e-6 * LARGE / 0.15, rel=1e-6)


def test_without_a_link_the_assumptions_are_told() -> None:
    told = recommend([cut(1, 0.05, 80_000, tail_s=None), CUTS[-1]], None, tail_shares=SHARES, objective="latency")
    assert told.here is None
    assert told.frame_s is None
    assert told.round_trip_s == ASSUMED_ROUND_TRIP_S
    assert len(told.assumed) == 2


def test_a_cut_that_may_not_be_used_is_not_recommended() -> None:
    ranges = found(cut(1, 0.05, 80_000, allowed=False), *CUTS[1:], measured=link())
    assert [part.name for part in ranges] == ["local", "2"]


def test_a_small_model_stays_local() -> None:
    told = recommend((cut(1, 0.005, 80_000), cut(9, 0.02, 0)), link(), tail_shares=SHARES, objective="latency")
    assert [part.name for part in told.ranges] == ["local"]
    assert "local at every uplink" in told.text


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0.001, 1.0), st.integers(100, 10**6)), min_size=1, max_size=6))
def test_ranges_partition_the_uplinks(heads: list[tuple[float, int]]) -> None:
    cuts = [cut(number, head_s, size) for number, (head_s, size) in enumerate(heads)]
    ranges = found(*cuts, cut(99, 0.5, 0), measured=link())
    assert ranges[0].from_mbit_s == 0.0
    assert ranges[-1].to_mbit_s is None
    for one, following in itertools.pairwise(ranges):
        assert one.to_mbit_s == following.from_mbit_s
        assert one.split != following.split
    # The lower envelope of a + b/r: the faster the link, the more bytes the best split sends.
    sizes = {c.split: c.payload_bytes for c in cuts} | {99: 0}
    assert [sizes[part.split] for part in ranges] == sorted(sizes[part.split] for part in ranges)

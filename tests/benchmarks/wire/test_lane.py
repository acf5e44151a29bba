"""The lane's promises in virtual time: rate, order, bounded queue, delay, outages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.wire.lane import NEVER_S, Lane
from benchmarks.wire.traces import Trace, constant


def drain(lane: Lane[str], until_s: float, step_s: float = 0.001) -> list[tuple[float, bytes]]:
    out, now_s = [], 0.0
    while now_s < until_s:
        out += [(now_s, quantum.data) for quantum in lane.due(now_s)]
        now_s += step_s
    return out


@given(sizes=st.lists(st.integers(1, 9000), min_size=1, max_size=8), rate=st.sampled_from([0.1, 1.0, 30.0]))
def test_every_byte_arrives_once_in_order_at_the_rate(sizes, rate):
    lane: Lane[str] = Lane(constant(rate), 0.02, 1 << 20)
    sent = b"".join(bytes([i]) * size for i, size in enumerate(sizes))
    at = 0
    for size in sizes:
        lane.enter("far", sent[at : at + size], 0.0)
        at += size
    through_s = len(sent) * 8 / (rate * 1e6)
    assert b"".join(q.data for q in lane.due(through_s + 0.02 - 1e-6)) != sent  # the last is still on its way
    assert lane.delivered_bytes < len(sent)
    lane.due(through_s + 0.02 + 1e-6)
    assert lane.delivered_bytes == len(sent)
    assert lane.queued_bytes == 0
    assert lane.next_s() == NEVER_S
    assert lane.busy_s == pytest.approx(through_s)


def test_one_message_takes_transmission_plus_delay():
    lane: Lane[str] = Lane(constant(1.2), 0.05, 32768)
    lane.enter("far", bytes(15_000), 0.0)  # 0.1 s at 1.2 Mbit/s
    arrivals = drain(lane, 0.3)
    assert arrivals[0][0] == pytest.approx(0.06, abs=0.002)
    assert arrivals[-1][0] == pytest.approx(0.15, abs=0.002)


def test_full_queue_takes_no_more_until_half_is_through():
    lane: Lane[str] = Lane(constant(8.0), 0.02, 30_000)
    assert lane.room() == 30_000
    lane.enter("far", bytes(30_000), 0.0)
    assert lane.room() == 0
    assert lane.next_s() == pytest.approx(0.015)  # when to look again: half of 30 ms
    lane.due(0.0151)
    assert lane.room() == 15_000


def test_blackout_holds_everything_then_goes_on():
    trace = Trace(edges_s=(0.0, 0.1, 1.0, 2.0), mbit_s=(1.2, 0.0, 1.2))
    lane: Lane[str] = Lane(trace, 0.0, 1 << 20)
    lane.enter("far", bytes(30_000), 0.0)
    times_s = [at_s for at_s, _ in drain(lane, 1.2)]
    assert not [at_s for at_s in times_s if 0.102 < at_s < 1.0]
    assert lane.delivered_bytes == 30_000
    assert times_s[-1] == pytest.approx(1.1, abs=0.01)


def test_idle_time_is_not_saved_up_but_lateness_is_made_good():
    lane: Lane[str] = Lane(constant(1.2), 0.0, 1 << 20)
    lane.enter("far", bytes(1500), 0.0)
    lane.due(0.05)
    lane.enter("far", bytes(1500), 0.06)  # the sender was idle: starts now
    assert lane.next_s() == pytest.approx(0.07)
    lane.due(0.08)
    lane.enter("far", bytes(1500), 0.09, waited=True)  # we were late: starts when the link was free
    assert lane.next_s() == pytest.approx(0.08)
    lane.due(0.09)
    lane.enter("far", bytes(1500), 50.0, waited=True)  # but never by more than a moment
    assert lane.next_s() > 49.7


def test_outage_shifts_what_is_under_way():
    lane: Lane[str] = Lane(constant(1.2), 0.02, 1 << 20)
    lane.enter("far", bytes(3000), 0.0)
    assert lane.due(0.015) == []  # one quantum flies, one is queued
    lane.restart(5.015, 5.0)
    assert lane.due(5.029) == []
    assert len(lane.due(5.031)) == 1
    assert len(lane.due(5.046)) == 1

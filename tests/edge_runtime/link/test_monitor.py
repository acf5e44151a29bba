"""What requests tell of the link and of the server's queue, and when to measure. Times are the test's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import msgspec
import pytest

from edge_runtime.link.estimator import LinkEstimator
from edge_runtime.link.monitor import KNOCK_BYTES, PROBE_BYTES, PROBE_SHARE, LinkMonitor
from split_model.protocol import messages as wire
from split_model.protocol.chunks import BURST_BYTES
from split_model.protocol.device import Answered, Probed
from split_model.protocol.uploads import Progress

RATE = 100_000.0


def answered(*, queue_s: float = 0.0, tail_s: float = 0.0, rtt_s: float = 0.05) -> Answered:
    """A request of 100 kB at 100 kB/s."""
    answer = wire.Answer(
        request_id=1, tensors=(), timed_bytes=90_000, receive_s=90_000 / RATE, queue_s=queue_s, tail_s=tail_s
    )
    elapsed_s = 100_000 / RATE + rtt_s + queue_s + tail_s
    return Answered(1, answer, cast("Any", None), 100_000, elapsed_s)


def monitor() -> LinkMonitor:
    return LinkMonitor(LinkEstimator(), now_s=0.0)


def test_an_answer_tells_rate_round_trip_and_queue() -> None:
    link = monitor()
    link.answered(answered(queue_s=0.4, tail_s=0.1), 10.0)
    assert link.estimate(10.0).uplink_bytes_s == pytest.approx(RATE, rel=0.01)
    assert link.estimate(10.0).rtt_s == pytest.approx(0.05)
    assert link.queue_s(10.0) == pytest.approx(0.2)


def test_a_request_whose_chunks_were_held_back_tells_the_queue_only() -> None:
    """The pause before the second chunk is not the link's."""
    link = monitor()
    link.answered(replace(answered(queue_s=0.4), held=True), 10.0)
    assert link.estimate(10.0).uplink_bytes_s is None
    assert link.estimate(10.0).rtt_s is None
    assert link.queue_s(10.0) == pytest.approx(0.2)


def test_what_the_server_says_of_the_next_request_counts_for_more_than_what_this_one_waited() -> None:
    link = monitor()
    event = answered(queue_s=3.0)
    load = wire.Load(queue_s=0.4, retry_s=0.0)
    link.answered(replace(event, answer=msgspec.structs.replace(event.answer, load=load)), 10.0)
    assert link.queue_s(10.0) == pytest.approx(0.2)
    link.advised(0.7, 11.0)
    assert link.queue_s(11.0) == pytest.approx(0.7)


def test_a_queue_of_long_ago_is_forgotten() -> None:
    link = monitor()
    for _ in range(10):
        link.answered(answered(queue_s=5.0), 10.0)
    assert link.queue_s(10.0) > 4.9
    assert link.queue_s(40.0) < 0.01


def test_a_request_given_up_half_way_lowers_the_rate() -> None:
    link = monitor()
    link.answered(answered(), 10.0)
    link.given_up(Progress(100_000, 1000, 20.0), 22.0)
    rate = link.estimate(22.0).uplink_bytes_s
    assert rate is not None
    assert rate < RATE / 10
    assert link.queue_s(22.0) < 0.01


def test_a_request_given_up_within_a_round_trip_says_nothing() -> None:
    """A local run on a fast board is done before any acknowledgement can be back."""
    link = monitor()
    link.answered(answered(rtt_s=0.2), 10.0)
    link.given_up(Progress(100_000, 0, 20.0), 20.15)
    assert link.estimate(20.15).uplink_bytes_s == pytest.approx(RATE, rel=0.01)
    assert link.queue_s(20.15) < 0.01


def test_a_request_that_had_arrived_blames_the_server_not_the_link() -> None:
    link = monitor()
    link.answered(answered(), 10.0)
    link.given_up(Progress(100_000, 100_000, 10.0), 14.0)
    assert link.estimate(14.0).uplink_bytes_s == pytest.approx(RATE, rel=0.01)
    assert link.queue_s(14.0) == pytest.approx(3.0, abs=0.1)


def test_a_new_connection_is_probed_then_pinged_at_once() -> None:
    link = monitor()
    link.connected()
    assert link.next_probe_bytes(0.3) == 2 * BURST_BYTES  # enough to time one burst after another
    assert link.next_probe_bytes(0.4) == 0
    assert link.next_probe_bytes(0.5) is None


def test_probes_take_a_small_share_of_the_link() -> None:
    link = monitor()
    link.connected()
    link.next_probe_bytes(0.3)
    link.probed(Probed(PROBE_BYTES[0], 2688, 2688 / RATE, 0.1), 0.5)
    sent = [link.next_probe_bytes(0.5 + step / 20) or 0 for step in range(1, 400)]
    assert sum(size > 0 for size in sent) > 3
    assert sum(sent) <= 0.1 * RATE * 20


def test_requests_given_up_one_after_another_do_not_fill_the_link_with_probes() -> None:
    """Each asks for a probe at once, which holds up the requests behind it, so that they are given up as well."""
    link, rate, seconds = monitor(), 60_000.0, 20
    link.connected()
    link.probed(Probed(8192, 4096, 4096 / rate, 0.1), 0.0)
    sent, now_s = [], 0.0
    while now_s < seconds:
        link.frame(now_s)
        link.hold()
        link.let_go()
        link.given_up(Progress(1500, 0, now_s), now_s + 0.045)
        now_s += 0.05
        size = link.next_probe_bytes(now_s)
        if size:
            sent.append(size)
            link.probed(Probed(size, size // 2, size / 2 / rate, 0.2), now_s)
    assert sum(sent) <= 2 * PROBE_SHARE * rate * seconds
    assert max(sent) > KNOCK_BYTES  # the link is measured all the same
    assert sent.count(KNOCK_BYTES) > seconds  # and that it is there is known much sooner


def test_a_request_given_up_is_followed_by_a_probe_at_once() -> None:
    link = monitor()
    link.answered(answered(), 10.0)
    link.given_up(Progress(100_000, 0, 20.0), 22.0)
    assert (link.next_probe_bytes(22.0) or 0) > KNOCK_BYTES


def test_the_round_trip_is_known_though_probes_keep_coming_back() -> None:
    """Without a ping of its own, an idle link would never tell its round trip."""
    link = monitor()
    link.connected()
    pings = 0
    for step in range(100):
        now_s = step / 20
        size = link.next_probe_bytes(now_s)
        if size:
            link.probed(Probed(size, size - 1024, (size - 1024) / RATE, 0.1), now_s)
        elif size == 0:
            pings += 1
            link.probed(Probed(0, 0, 0.0, 0.2), now_s)
    assert link.estimate(5.0).rtt_s == pytest.approx(0.2)
    assert 2 <= pings <= 4


def test_requests_save_the_pings() -> None:
    link = monitor()
    link.answered(answered(), 10.0)
    assert link.next_probe_bytes(10.2) is None
    link.answered(answered(), 11.9)
    assert link.next_probe_bytes(12.1) is None


def test_the_window_follows_the_link_within_what_the_server_takes() -> None:
    link = monitor()
    assert link.window_bytes(1 << 20, 0.0) is None
    link.answered(answered(), 10.0)
    assert link.window_bytes(1 << 20, 10.0) == pytest.approx(RATE * 0.35, rel=0.01)
    assert link.window_bytes(16 << 10, 10.0) == 16 << 10


def test_a_request_given_up_behind_others_is_not_held_against_the_link() -> None:
    """It only had to wait for its turn: the link carried the others meanwhile, and that is what it can do."""
    link = monitor()
    link.answered(answered(), 10.0)
    link.given_up(Progress(100_000, 0, 20.0, others_bytes=180_000, others_at_s=21.95), 22.0)
    assert link.estimate(22.0).silent_s == 0.0
    assert link.estimate(22.0).uplink_bytes_s == pytest.approx(RATE, rel=0.1)


def test_a_request_given_up_behind_others_that_stand_still_is() -> None:
    link = monitor()
    link.answered(answered(), 10.0)
    link.given_up(Progress(100_000, 0, 20.0, others_bytes=20_000, others_at_s=20.2), 24.0)
    assert link.estimate(24.0).silent_s == pytest.approx(3.8)


def test_a_request_that_never_left_says_nothing() -> None:
    link = monitor()
    link.answered(answered(), 10.0)
    before = link.estimate(30.0)
    link.given_up(Progress(100_000), 30.0)
    assert link.estimate(30.0) == before


def test_the_link_is_free_when_the_last_frame_lets_go() -> None:
    link = monitor()
    link.connected()
    for _ in range(3):
        link.hold()
    for _ in range(2):
        link.let_go()
        assert link.probe_due_s(1.0) == float("inf")
    link.let_go()
    assert link.probe_due_s(1.0) < float("inf")


def test_while_a_frame_is_at_another_server_this_link_is_pinged_but_not_probed() -> None:
    """Both may be one uplink; and whether the server that stands by is still there is to be known all the same."""
    link = monitor()
    link.answered(answered(), 10.0)
    link.hold_elsewhere()
    assert link.probe_due_s(20.0) == float("inf")
    assert link.next_probe_bytes(20.0) == 0
    link.probed(Probed(0, 0, 0.0, 0.05), 20.05)
    assert link.next_probe_bytes(20.1) is None
    link.let_go_elsewhere()
    assert link.next_probe_bytes(20.2)

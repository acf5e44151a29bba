"""Acknowledgements that wait: one for a batch of chunks, none where the answer comes first, none that is wrong."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from cloud_server.acknowledgements import ANSWER_WITHIN_S, GATHER_S, Acknowledgements
from split_model.protocol import messages as wire

PEER, OTHER = b"peer", b"other"


def ack(received_bytes: int, request_id: int = 1) -> wire.Ack:
    return wire.Ack(request_id=request_id, received_bytes=received_bytes)


def test_all_chunks_that_come_within_a_moment_are_acknowledged_at_once():
    acks = Acknowledgements()
    for number, received_bytes in enumerate((1024, 2048, 3072)):
        acks.note(PEER, ack(received_bytes), whole=False, now_s=number * GATHER_S / 4)
    assert acks.due(GATHER_S * 0.9) == []
    assert acks.next_s() == GATHER_S
    assert acks.due(GATHER_S) == [(PEER, ack(3072))]
    assert acks.next_s() == math.inf
    assert acks.due(100.0) == []


def test_more_is_expected_only_until_the_request_is_whole():
    acks = Acknowledgements()
    acks.note(PEER, ack(1024), whole=False, now_s=0.0)
    assert acks.gathering
    acks.note(PEER, ack(2048), whole=True, now_s=0.0)
    assert not acks.gathering


def test_a_request_that_is_answered_in_time_is_not_acknowledged():
    acks = Acknowledgements()
    acks.note(PEER, ack(1024), whole=False, now_s=0.0)
    acks.note(PEER, ack(2048), whole=True, now_s=0.0)
    assert acks.due(0.0) == []
    assert acks.next_s() == ANSWER_WITHIN_S
    acks.forget(PEER, 1)
    assert acks.next_s() == math.inf
    assert acks.due(100.0) == []


def test_one_that_waits_for_its_tail_is_acknowledged_after_a_moment():
    acks = Acknowledgements()
    acks.note(PEER, ack(2048), whole=True, now_s=1.0)
    assert acks.due(1.0) == []
    assert acks.due(1.0 + ANSWER_WITHIN_S) == [(PEER, ack(2048))]
    assert acks.next_s() == math.inf


def test_where_answers_take_longer_anyway_nothing_is_held_back():
    acks = Acknowledgements()
    for _ in range(20):
        acks.answered(3 * ANSWER_WITHIN_S)
    acks.note(PEER, ack(2048), whole=True, now_s=1.0)
    assert acks.due(1.0) == [(PEER, ack(2048))]
    for _ in range(20):
        acks.answered(0.0)
    acks.note(PEER, ack(2048, request_id=2), whole=True, now_s=2.0)
    assert acks.due(2.0) == []


def test_a_device_that_starts_over_hears_nothing_of_what_it_sent_before():
    acks = Acknowledgements()
    acks.note(PEER, ack(4096), whole=True, now_s=0.0)
    acks.note(PEER, ack(1024, request_id=2), whole=False, now_s=0.0)
    acks.drop(PEER)
    acks.note(PEER, ack(512), whole=False, now_s=0.0)
    assert acks.due(100.0) == [(PEER, ack(512))]


def test_flushing_sends_all_of_one_connection():
    acks = Acknowledgements()
    acks.note(PEER, ack(1024), whole=True, now_s=0.0)
    acks.note(PEER, ack(2048, request_id=2), whole=False, now_s=0.0)
    acks.note(OTHER, ack(512), whole=False, now_s=0.0)
    assert acks.flush(PEER) == [ack(1024), ack(2048, request_id=2)]
    assert acks.due(100.0) == [(OTHER, ack(512))]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["chunk", "last", "answer", "drop", "due"]),
        st.sampled_from([PEER, OTHER]),
        st.integers(1, 3),
    ),
    max_size=60,
)


@given(EVENTS)
def test_whatever_happens_the_last_word_is_true_and_comes_once(events):
    """A model of what has arrived: no acknowledgement of more, or of less than before, or after the outcome."""
    acks = Acknowledgements()
    arrived: dict[tuple[bytes, int], int] = {}
    told: dict[tuple[bytes, int], int] = {}
    for number, (what, peer, request_id) in enumerate(events):
        now_s = number * ANSWER_WITHIN_S / 3
        key = peer, request_id
        if what in ("chunk", "last"):
            arrived[key] = arrived.get(key, 0) + 100
            acks.note(peer, ack(arrived[key], request_id), whole=what == "last", now_s=now_s)
        elif what == "answer":
            acks.forget(peer, request_id)
            arrived.pop(key, None), told.pop(key, None)
        elif what == "drop":
            acks.drop(peer)
            for gone in [one for one in arrived if one[0] == peer]:
                arrived.pop(gone), told.pop(gone, None)
        else:
            for to, sent in acks.due(now_s):
                assert sent.received_bytes == arrived[to, sent.request_id] > told.get((to, sent.request_id), 0)
                told[to, sent.request_id] = sent.received_bytes
    for to, sent in acks.due(math.inf):
        told[to, sent.request_id] = sent.received_bytes
    assert told == arrived

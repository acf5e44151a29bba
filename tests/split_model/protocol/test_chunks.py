"""Payloads in chunks: what is put together is what was cut, and nothing else can be put together."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from split_model.errors import ProtocolError
from split_model.protocol.chunks import MIN_CHUNK_BYTES, PIECES, RESOLUTION_S, Incoming, Outgoing, chunk_bytes_for
from split_model.protocol.messages import CHUNK_BYTES, MAX_CHUNK_BYTES

SIZES = st.one_of(
    st.integers(0, 3 * MIN_CHUNK_BYTES), st.integers(0, 10 * CHUNK_BYTES), st.just(PIECES * CHUNK_BYTES)
)


def payload_of(size: int) -> bytes:
    return bytes((7 * index + index // 251) % 256 for index in range(size))


@given(SIZES)
def test_every_payload_arrives_as_it_left(size):
    payload = payload_of(size)
    outgoing, incoming = Outgoing(memoryview(payload)), Incoming(size, now_s=0.0)
    chunks = 0
    while not (outgoing.all_sent and chunks):
        offset, chunk = outgoing.next_chunk()
        assert len(chunk) <= MAX_CHUNK_BYTES
        chunks += 1
        incoming.add(offset, chunk, now_s=float(chunks))
        outgoing.acknowledge(incoming.received_bytes)
        assert incoming.complete == outgoing.all_sent
    assert bytes(incoming.buffer) == payload
    assert outgoing.unacked_bytes == 0
    assert chunks == max(1, -(-size // chunk_bytes_for(size)))


@given(SIZES, st.data())
def test_a_new_connection_changes_nothing_of_it(size, data):
    payload = payload_of(size)
    outgoing, incoming = Outgoing(memoryview(payload)), Incoming(size, now_s=0.0)
    for _ in range(data.draw(st.integers(0, 5))):
        if outgoing.all_sent:
            break
        outgoing.next_chunk()
    outgoing.rewind()
    while not outgoing.all_sent:
        offset, chunk = outgoing.next_chunk()
        incoming.add(offset, chunk, now_s=1.0)
    assert bytes(incoming.buffer) == payload


@given(st.integers(1, 500), st.lists(st.tuples(st.integers(0, 600), st.binary(max_size=200)), max_size=12))
def test_only_chunks_in_order_without_gap_overlap_or_overrun_are_taken(total, chunks):
    incoming = Incoming(total, now_s=0.0)
    taken = b""
    for offset, chunk in chunks:
        fits = offset == len(taken) and chunk and len(taken) + len(chunk) <= total
        if fits:
            incoming.add(offset, chunk, now_s=0.0)
            taken += chunk
        else:
            with pytest.raises(ProtocolError):
                incoming.add(offset, chunk, now_s=0.0)
        assert incoming.received_bytes == len(taken)
        assert len(incoming.buffer) == total
        assert bytes(incoming.buffer[: len(taken)]) == taken


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_what_was_not_sent_cannot_be_acknowledged(sent, acknowledged):
    assume(acknowledged > sent)
    outgoing = Outgoing(memoryview(bytes(1000)))
    outgoing.sent_bytes = sent
    with pytest.raises(ProtocolError):
        outgoing.acknowledge(acknowledged)


def test_the_chunk_size_follows_from_the_length_alone_and_leaves_gaps_for_control_traffic():
    assert chunk_bytes_for(100) == MIN_CHUNK_BYTES
    assert chunk_bytes_for(7_840) == 1_960
    assert chunk_bytes_for(16 << 10) == 2 << 10
    assert chunk_bytes_for(80_000) == 10_000
    assert chunk_bytes_for(1 << 30) == CHUNK_BYTES


def test_arrival_is_timed_from_the_first_chunk_to_the_last():
    incoming = Incoming(300, now_s=10.0)
    incoming.add(0, bytes(100), now_s=10.0)
    incoming.add(100, bytes(100), now_s=10.5)
    incoming.add(200, bytes(100), now_s=12.0)
    assert (incoming.timed_bytes, incoming.receive_s) == (200, 2.0)


def test_bytes_that_are_read_at_once_make_no_link_infinitely_fast():
    incoming = Incoming(300, now_s=10.0)
    incoming.add(0, bytes(100), now_s=10.0)
    assert (incoming.timed_bytes, incoming.receive_s) == (0, 0.0)
    incoming.add(100, bytes(200), now_s=10.0)
    assert (incoming.timed_bytes, incoming.receive_s) == (200, RESOLUTION_S)

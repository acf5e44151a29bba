"""The messages: what is written can be read, and nothing else can."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from split_model.errors import ProtocolError
from split_model.privacy import CodebookSpec, NoiseSpec
from split_model.protocol import messages as wire
from tests.split_model.protocol.test_reports import REPORT

REQUEST = wire.Request(
    request_id=1,
    boot_id="boot",
    version=1,
    bundle="a" * 64,
    cut=3,
    release=wire.Noise(spec=NoiseSpec(epsilon=8.0), digest="d"),
    total_bytes=100,
    due_in_s=1.5,
)
ANSWER = wire.Answer(
    request_id=1,
    tensors=(wire.AnswerTensor(dtype="float32", shape=(1, 10)),),
    timed_bytes=1,
    receive_s=0.5,
    queue_s=0.0,
    tail_s=0.1,
)
FROM_DEVICE = [
    wire.Hello(versions=(1,), boot_id="b", software="s"),
    REQUEST,
    msgspec.structs.replace(REQUEST, release=wire.NoRelease()),
    msgspec.structs.replace(
        REQUEST, release=wire.Codebook(spec=CodebookSpec(epsilon=8.0, codewords=16), digest="d")
    ),
    wire.Chunk(request_id=1, offset=10),
    wire.Cancel(request_id=1),
    wire.Probe(probe_id=1, offset=0, total_bytes=0),
    wire.Ask(ask_id=1, bundle="a" * 64, cut=3, due_in_s=0.5),
    REPORT,
]
LOAD = wire.Load(queue_s=0.25, retry_s=2.0)
FROM_SERVER = [
    wire.Welcome(
        version=1,
        boot_id="b",
        window_bytes=1,
        request_bytes=2,
        offers=(wire.Offer(identity="a" * 64, name="n", cuts=(1,)),),
    ),
    wire.Ack(request_id=1, received_bytes=2),
    ANSWER,
    wire.ProbeReply(probe_id=1, timed_bytes=0, receive_s=0.0),
    wire.Refusal(request_id=None, code="busy", text="t"),
    msgspec.structs.replace(ANSWER, load=LOAD),
    wire.Refusal(request_id=1, code="expired", text="t", load=LOAD),
    wire.AskReply(ask_id=1, load=LOAD),
]


@pytest.mark.parametrize("message", FROM_DEVICE, ids=lambda message: type(message).__name__)
def test_what_a_device_writes_the_server_reads(message):
    assert wire.decode_from_device(wire.encode(message)) == message
    with pytest.raises(ProtocolError):
        wire.decode_from_server(wire.encode(message))


@pytest.mark.parametrize("message", FROM_SERVER, ids=lambda message: type(message).__name__)
def test_what_a_server_writes_the_device_reads(message):
    assert wire.decode_from_server(wire.encode(message)) == message
    with pytest.raises(ProtocolError):
        wire.decode_from_device(wire.encode(message))


@pytest.mark.parametrize(
    ("message", "fields"),
    [(ANSWER, 7), (wire.Refusal(request_id=1, code="busy", text="t"), 4)],
    ids=lambda value: type(value).__name__,
)
def test_without_a_load_a_message_is_as_version_1_has_it(message, fields):
    """A device of before takes no field more than it knows."""
    assert len(msgspec.msgpack.decode(wire.encode(message))) == fields
    assert len(msgspec.msgpack.decode(wire.encode(msgspec.structs.replace(message, load=LOAD)))) == fields + 1


@given(
    st.one_of(
        st.binary(max_size=300),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(1 << 63), (1 << 64) - 1)
            | st.floats()
            | st.text(max_size=9)
            | st.binary(max_size=9),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=12,
        ).map(msgspec.msgpack.encode),
    )
)
@example(b"\x91" * 60_000)  # nested deeper than any recursion
@example(b"\xdd\xff\xff\xff\xff")  # an array of 4 G items, says the header
@example(b"\xc6\xff\xff\xff\xff")
@example(b"x" * (wire.MAX_HEADER_BYTES + 1))
def test_other_bytes_are_a_protocol_error_and_nothing_worse(header):
    for decode in (wire.decode_from_device, wire.decode_from_server):
        with suppress(ProtocolError):
            decode(header)


@given(st.sampled_from(FROM_DEVICE + FROM_SERVER), st.data())
def test_a_damaged_message_is_another_message_or_a_protocol_error(message, data):
    header = bytearray(wire.encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    for decode in (wire.decode_from_device, wire.decode_from_server):
        try:
            found = decode(bytes(header))
        except ProtocolError:
            continue
        assert decode(wire.encode(found)) == found or "nan" in repr(found)


@pytest.mark.parametrize(
    "changes",
    [
        {"request_id": -1},
        {"request_id": 1 << 63},
        {"cut": -1},
        {"total_bytes": -1},
        {"total_bytes": 1 << 40},
        {"due_in_s": -1.0},
        {"due_in_s": float("inf")},
        {"due_in_s": float("nan")},
        {"bundle": "A" * 64},
        {"bundle": "a" * 63},
        {"bundle": "a" * 64 + "\n"},
        {"boot_id": ""},
        {"boot_id": "b" * 65},
        {"version": "1"},
    ],
)
def test_a_request_with_an_impossible_field_is_refused(changes):
    with pytest.raises(ProtocolError):
        wire.decode_from_device(wire.encode(msgspec.structs.replace(REQUEST, **changes)))


def test_a_noise_spec_out_of_range_is_refused():
    raw = msgspec.msgpack.decode(wire.encode(REQUEST))
    position = next(at for at, item in enumerate(raw) if isinstance(item, dict))
    for wrong in ({"epsilon": -1.0}, {"epsilon": float("nan")}, {"bits": 99}, {"allocation": "all"}, {"extra": 1}):
        spoilt = list(raw)
        spoilt[position] = {**raw[position], "spec": {**raw[position]["spec"], **wrong}}
        with pytest.raises(ProtocolError):
            wire.decode_from_device(msgspec.msgpack.encode(spoilt))


def test_one_field_too_many_or_too_few_is_refused():
    for message in FROM_DEVICE:
        raw = msgspec.msgpack.decode(wire.encode(message))
        for wrong in (raw[:-1], [*raw, 1]):
            with pytest.raises(ProtocolError):
                wire.decode_from_device(msgspec.msgpack.encode(wrong))


def test_versions_are_agreed_on_best_first():
    assert wire.agree_version((1, 2, 3), ours=(3, 1)) == 3
    assert wire.agree_version((1,), ours=(3, 1)) == 1
    assert wire.agree_version((2,), ours=(3, 1)) is None
    assert wire.agree_version(()) is None

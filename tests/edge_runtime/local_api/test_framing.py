"""Streams cut into messages: by any split of the bytes, and bounded by what was checked before."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.local_api import framing
from split_model.errors import ProtocolError

MESSAGES = st.lists(
    st.tuples(st.binary(min_size=1, max_size=40), st.binary(max_size=300), st.booleans()), max_size=6
)
SPLITS = st.lists(st.integers(min_value=1, max_value=50), min_size=1, max_size=50)


def pour(incoming: framing.Incoming, data: bytes, sizes: list[int], keep: Any) -> list[framing.Event]:
    """Read ``data`` in pieces, as large as there is room; ``keep(header)`` decides about bodies."""
    events: list[framing.Event] = []
    given_at = 0
    while given_at < len(data):
        room = incoming.room()
        piece = data[given_at : given_at + min(sizes[len(events) % len(sizes)], len(room))]
        room[: len(piece)] = piece
        given_at += len(piece)
        event = incoming.filled(len(piece))
        while event is not None:
            events.append(event)
            is_header = isinstance(event, framing.Header)
            event = (incoming.accept() if keep(event.data) else incoming.skip()) if is_header else None
    return events


@given(MESSAGES, SPLITS)
def test_any_split_gives_the_same_messages(messages: list[tuple[bytes, bytes, bool]], sizes: list[int]) -> None:
    keeps = iter([keep for *_, keep in messages])
    data = framing.hello() + b"".join(
        b"".join(framing.framed(header, [body[:7], body[7:]])) for header, body, _ in messages
    )
    incoming = framing.Incoming()
    hello, *events = pour(incoming, data, sizes, lambda _: next(keeps))
    assert hello == framing.Hello((2, 2), 2)
    expected: list[framing.Event] = []
    for header, body, keep in messages:
        expected += [
            framing.Header(header, len(body)),
            framing.Body(memoryview(body)) if keep else framing.Skipped(),
        ]
    assert events == expected
    assert incoming.between


@given(st.booleans(), st.binary(max_size=400), SPLITS)
def test_any_bytes_are_messages_or_an_error(greets: bool, data: bytes, sizes: list[int]) -> None:
    incoming = framing.Incoming(max_header_bytes=100)
    with contextlib.suppress(ProtocolError):
        pour(incoming, (framing.hello() if greets else b"") + data, sizes, lambda _: False)
        assert len(incoming.room()) <= 64 << 10


@pytest.mark.parametrize("length", [0, 101, 1 << 31, (1 << 32) - 1])
def test_a_length_is_refused_before_anything_is_read_for_it(length: int) -> None:
    incoming = framing.Incoming(max_header_bytes=100)
    data = framing.hello() + length.to_bytes(4, "little") + bytes(8)
    with pytest.raises(ProtocolError, match=f"a header of {length} bytes, 1 to 100"):
        pour(incoming, data, [100], lambda _: True)


def test_memory_for_a_body_is_taken_when_it_is_accepted() -> None:
    incoming = framing.Incoming()
    data = framing.hello() + (2).to_bytes(4, "little") + (1 << 62).to_bytes(8, "little") + b"{}"
    *_, announced = pour(incoming, data, [100], lambda _: False)
    assert announced == framing.Header(b"{}", 1 << 62)
    assert len(incoming.room()) <= 64 << 10  # it goes by in pieces


@pytest.mark.parametrize(
    ("theirs", "ours", "agreed"),
    [((2, 2), (2, 2), 2), ((1, 5), (2, 3), 3), ((3, 9), (1, 4), 4), ((3, 3), (1, 2), None), ((0, 1), (2, 3), None)],
)
def test_the_highest_common_version_is_spoken(theirs: Any, ours: Any, agreed: int | None) -> None:
    if agreed is None:
        with pytest.raises(framing.VersionError, match="upgrade the older side"):
            framing.agree(framing.hello(theirs), ours)
    else:
        assert framing.agree(framing.hello(theirs), ours).agreed == agreed

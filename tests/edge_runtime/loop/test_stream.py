"""The frames between a source and one frame loop after another: none lost, none twice, none overdue unseen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.loop.stream import FrameStream
from edge_runtime.sources import Frame
from split_model.service.heartbeats import Heartbeats


def frames(count: int) -> list[Frame]:
    return [Frame(index, "", (), None, 0.0) for index in range(count)]


@given(count=st.integers(0, 20), over_after=st.lists(st.integers(0, 5), max_size=8))
def test_each_frame_goes_to_one_loop_whenever_the_config_changes(count: int, over_after: list[int]) -> None:
    stream = FrameStream(iter(frames(count)), Heartbeats(), within_s=lambda: 1.0)
    seen: list[int] = []
    for limit in [*over_after, 10**6]:
        until = len(seen) + limit
        for frame in stream.until(lambda until=until: len(seen) >= until):
            seen.append(frame.index)
            stream.answered(frame)
    assert seen == list(range(count))
    assert stream.ended
    assert stream.under_way == 0


def test_a_frame_is_overdue_until_it_is_answered() -> None:
    clock_s = 0.0
    beats = Heartbeats(now=lambda: clock_s)
    stream = FrameStream(iter(frames(2)), beats, within_s=lambda: 2.0)
    loop = stream.until(lambda: False)
    first = next(loop)
    clock_s = 1.0
    second = next(loop)
    assert (stream.under_way, beats.overdue()) == (2, [])
    clock_s = 2.5
    assert beats.overdue() == ["the answer of frame 0"]
    stream.answered(first)
    assert beats.overdue() == []
    clock_s = 9.0
    stream.answered(second)
    assert (stream.under_way, beats.overdue()) == (0, [])

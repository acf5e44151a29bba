"""The frames between a source and one frame loop after another: none lost, none twice, none overdue unseen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.loop.stream import Feed
from edge_runtime.sources import Frame
from split_model.service.heartbeats import Heartbeats


def frames(count: int) -> list[Frame]:
    return [Frame(index, "", (), None, 0.0) for index in range(count)]


@given(count=st.integers(0, 20), over_after=st.lists(st.integers(0, 5), max_size=8))
def test_each_frame_goes_to_one_loop_whenever_the_config_changes(count: int, over_after: list[int]) -> None:
    feed = Feed(iter(frames(count)), Heartbeats(), within_s=lambda: 1.0)
    seen: list[int] = []
    for limit in [*over_after, 10**6]:
        until = len(seen) + limit
        for frame in feed.until(lambda until=until: len(seen) >= until):
            seen.append(frame.index)
            feed.answered(frame)
    assert seen == list(range(count))
    assert feed.ended
    assert feed.under_way == 0


def test_a_frame_is_overdue_until_it_is_answered() -> None:
    clock_s = 0.0
    beats = Heartbeats(now=lambda: clock_s)
    feed = Feed(iter(frames(2)), beats, within_s=lambda: 2.0)
    loop = feed.until(lambda: False)
    first = next(loop)
    clock_s = 1.0
    second = next(loop)
    assert (feed.under_way, beats.overdue()) == (2, [])
    clock_s = 2.5
    assert beats.overdue() == ["the answer of frame 0"]
    feed.answered(first)
    assert beats.overdue() == []
    clock_s = 9.0
    feed.answered(second)
    assert (feed.under_way, beats.overdue()) == (0, [])

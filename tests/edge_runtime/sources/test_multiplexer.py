"""Several sources as one stream: who waits, who gives way, and what is still handed out at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.sources import Answer, Frame, Source
from edge_runtime.sources.multiplexer import Multiplexer
from edge_runtime.sources.supply import Supply

PATIENCE_S = 20.0


def frame(name: str) -> Frame:
    return Frame(0, name, (np.zeros(1),), None, 5.0)


def until(holds: Callable[[], Any]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


class Scripted(Source):
    """Gives what it is told to give; ``given`` counts what was taken from its generator."""

    def __init__(self, names: list[str], *, policy: Any = "all", queue_frames: int = 1, ends: bool = True) -> None:
        self.policy = policy
        self.queue_frames = queue_frames
        self.names = names
        self.ends = ends
        self.given = 0
        self.heard: list[str] = []
        self.closed = False
        self.error: Exception | None = None

    def frames(self, stopped: Callable[[], bool]) -> Iterator[Any]:
        for name in self.names:
            yield frame(name)
            self.given += 1
        if self.error is not None:
            raise self.error
        while not self.ends and not stopped():
            time.sleep(0.001)

    def answered(self, answer: Answer) -> None:
        self.heard.append(answer.frame.name)

    def close(self) -> None:
        self.closed = True


def make(sources: dict[str, Source], stop: threading.Event | None = None) -> Multiplexer:
    event = stop or threading.Event()
    return Multiplexer(
        {name: Supply.of(source, f"of {name}") for name, source in sources.items()}, stopped=event.is_set
    )


def test_a_live_source_drops_all_but_the_latest_and_counts_them() -> None:
    live = Scripted([str(number) for number in range(100)], policy="latest")
    multiplexer = make({"cam": live})
    stream = iter(multiplexer)
    first = next(stream)  # starts it
    until(lambda: live.given == 100)
    rest = [found.name for found in stream]
    assert rest == ([] if first.name == "99" else ["99"])
    assert multiplexer.dropped == 100 - 1 - len(rest)
    assert multiplexer.counters_by_source() == {"cam": {"frames": 100, "dropped": multiplexer.dropped}}


def test_nothing_is_lost_of_a_source_that_waits() -> None:
    source = Scripted([str(number) for number in range(50)], queue_frames=3)
    multiplexer = make({"line": source})
    names = []
    for found in multiplexer:
        names.append(found.name)
        time.sleep(0.001)
        assert source.given <= len(names) + 3
    assert names == source.names
    assert multiplexer.dropped == 0


def test_frames_say_where_they_are_from_and_their_source_hears_of_them() -> None:
    sources = {"a": Scripted(["a0", "a1"]), "b": Scripted(["b0"])}
    multiplexer = make(sources)
    found = []
    for taken in multiplexer:
        found.append(taken)
        multiplexer.answered(Answer(taken, {}))
    assert [taken.index for taken in found] == [0, 1, 2]
    assert {(taken.name, taken.source, taken.subject) for taken in found} == {
        ("a0", "a", "of a"),
        ("a1", "a", "of a"),
        ("b0", "b", "of b"),
    }
    assert (sources["a"].heard, sources["b"].heard) == (["a0", "a1"], ["b0"])
    multiplexer.close()
    assert sources["a"].closed
    assert sources["b"].closed


def test_no_source_keeps_another_one_waiting() -> None:
    busy = Scripted([f"busy{number}" for number in range(1000)], queue_frames=50)
    rare = Scripted(["rare"])
    multiplexer = make({"busy": busy, "rare": rare})
    stream = iter(multiplexer)
    names = [next(stream).name]
    until(lambda: rare.given == 1 and busy.given >= 49)
    assert "rare" in names + [next(stream).name for _ in range(2)]
    multiplexer.close()


def test_what_was_accepted_before_the_stop_is_handed_out() -> None:
    stop = threading.Event()
    source = Scripted([str(number) for number in range(5)], queue_frames=10, ends=False)
    live = Scripted(["live"], policy="latest", ends=False)
    multiplexer = make({"line": source, "live": live}, stop)
    stream = iter(multiplexer)
    names = [next(stream).name]
    until(lambda: source.given == 5 and live.given == 1)
    stop.set()
    names += [found.name for found in stream]
    assert sorted(names) == ["0", "1", "2", "3", "4", "live"]


def test_what_one_source_raises_comes_after_the_frames_of_all() -> None:
    broken = Scripted(["last words"])
    broken.error = OSError("gone for good")
    other = Scripted(["x"])
    names = []
    with pytest.raises(OSError, match="gone for good"):
        names.extend(found.name for found in make({"broken": broken, "other": other}))
    assert sorted(names) == ["last words", "x"]


def test_a_source_that_fails_takes_no_other_one_down_and_is_opened_again(caplog: pytest.LogCaptureFixture) -> None:
    stop, clock = threading.Event(), Clock()
    broken, mended = Scripted([]), Scripted(["mended"], ends=False)
    broken.error = OSError("unplugged")
    supplies = iter([broken, broken, mended])
    other = Scripted(["x", "y"], ends=False)
    sources = {"camera": Supply(lambda: next(supplies)), "other": Supply.of(other)}
    multiplexer = Multiplexer(sources, stopped=stop.is_set, now=clock)
    stream = iter(multiplexer)
    assert [next(stream).name, next(stream).name] == ["x", "y"]
    taking = Taking(stream)
    until(lambda: multiplexer.trouble_by_source() == {"camera": "unplugged"})
    assert taking.is_alive()
    until(lambda: (clock.jump(2.0), taking.names == ["mended"])[1])
    assert multiplexer.trouble_by_source() == {}
    assert caplog.text.count("source camera: unplugged; tried again") == 1
    stop.set()
    taking.join()
    multiplexer.close()
    assert (mended.closed, other.closed) == (True, True)


@pytest.mark.parametrize("persistent", [False, True])
def test_a_service_waits_for_sources_of_which_none_works(persistent: bool) -> None:
    stop, clock = threading.Event(), Clock()
    source = Scripted(["came back"], ends=False)
    supply = Supply(lambda: source, fault=OSError("no such camera"))
    multiplexer = Multiplexer({"camera": supply}, stopped=stop.is_set, persistent=persistent, now=clock)
    if not persistent:
        with pytest.raises(OSError, match="no such camera"):
            next(iter(multiplexer))
        return
    taking = Taking(iter(multiplexer))
    until(lambda: multiplexer.trouble_by_source() == {"camera": "no such camera"})
    until(lambda: (clock.jump(2.0), taking.names == ["came back"])[1])
    stop.set()
    taking.join()
    multiplexer.close()


class Hanging(Scripted):
    """Hangs after what it gave, until the test lets it go, and gives what is ``late`` then."""

    def __init__(self, names: list[str], *, late: str = "") -> None:
        super().__init__(names)
        self.late = late
        self.let_go = threading.Event()

    def frames(self, stopped: Callable[[], bool]) -> Iterator[Any]:
        yield from super().frames(stopped)
        self.let_go.wait()
        if self.late:
            yield frame(self.late)


class Clock:
    """Goes on by itself, and jumps when the test says so."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s

    def jump(self, seconds: float) -> None:
        self.ahead_s += seconds


class Taking(threading.Thread):
    """Takes what comes, in a thread."""

    def __init__(self, stream: Iterator[Any]) -> None:
        super().__init__()
        self.names: list[str] = []
        self._stream = stream
        self.start()

    def run(self) -> None:
        self.names.extend(found.name for found in self._stream)


def test_idle_for_long_is_no_trouble() -> None:
    stop = threading.Event()
    idle = Scripted([], ends=False)
    multiplexer = Multiplexer({"line": Supply.of(idle, call_within_s=0.2)}, stopped=stop.is_set)
    taking = Taking(iter(multiplexer))
    time.sleep(1.5)
    assert multiplexer.trouble_by_source() == {}
    assert multiplexer.counters_by_source() == {"line": {"frames": 0, "dropped": 0}}
    stop.set()
    taking.join()
    multiplexer.close()


def test_a_source_that_hangs_is_opened_again_and_left_behind_three_times_at_most() -> None:
    stop, clock = threading.Event(), Clock()
    opened: list[Hanging] = []

    def open_one() -> Hanging:
        opened.append(Hanging([f"s{len(opened)}"], late=f"late{len(opened)}"))
        return opened[-1]

    other = Scripted(["o0"], ends=False)
    sources = {"stuck": Supply(open_one), "other": Supply.of(other)}
    multiplexer = Multiplexer(sources, stopped=stop.is_set, now=clock)
    taking = Taking(iter(multiplexer))
    until(lambda: len(taking.names) == 2)

    def hang() -> bool:
        clock.jump(10.0)
        time.sleep(0.05)
        return "hangs" in multiplexer.trouble_by_source().get("stuck", "")

    until(hang)
    until(lambda: hang() and len(opened) == 4)
    for _ in range(20):
        hang()
    assert len(opened) == 4  # with three left behind, the fourth is waited for
    assert multiplexer.counters_by_source()["stuck"]["restarts"] == 3
    opened[3].let_go.set()
    until(lambda: "late3" in taking.names)
    for source in opened[:3]:
        source.let_go.set()
    until(lambda: all(source.closed for source in opened[:3]))
    stop.set()
    taking.join()
    assert sorted(taking.names) == ["late3", "o0", "s0", "s1", "s2", "s3"]  # nothing of those left behind
    multiplexer.close()


@pytest.mark.parametrize("noticed", [False, True])
def test_a_stuck_source_does_not_keep_the_program_from_ending(noticed: bool) -> None:
    stop, clock = threading.Event(), Clock()
    stuck, other = Hanging(["s0"]), Scripted(["o0", "o1"], queue_frames=2, ends=False)
    sources = {"stuck": Supply.of(stuck), "other": Supply.of(other)}
    multiplexer = Multiplexer(sources, stopped=stop.is_set, now=clock)
    taking = Taking(iter(multiplexer))
    until(lambda: len(taking.names) == 3)
    if noticed:
        until(lambda: (clock.jump(10.0), time.sleep(0.05), multiplexer.trouble_by_source())[2])
    stop.set()
    until(lambda: (clock.jump(10.0), not taking.is_alive())[1])
    assert sorted(taking.names) == ["o0", "o1", "s0"]
    multiplexer.close(timeout_s=0.5)
    assert (stuck.closed, other.closed) == (False, True)  # its thread still uses it
    stuck.let_go.set()
    until(lambda: all(thread.name != "source-stuck" for thread in threading.enumerate()))


def test_closing_ends_threads_whose_frames_nobody_takes() -> None:
    before = threading.active_count()
    multiplexer = make({"a": Scripted(["0", "1", "2"]), "b": Scripted([], ends=False)})
    next(iter(multiplexer))
    multiplexer.close()
    assert threading.active_count() == before


def test_dear_frames_are_made_only_if_they_are_taken() -> None:
    made = []

    class Lazy(Scripted):
        def frames(self, stopped: Callable[[], bool]) -> Iterator[Any]:
            for name in self.names:
                yield lambda name=name: made.append(name) or frame(name)
                self.given += 1

    lazy = Lazy([str(number) for number in range(20)], policy="latest")
    multiplexer = make({"cam": lazy})
    stream = iter(multiplexer)
    taken = [next(stream).name]
    until(lambda: lazy.given == 20)
    taken += [found.name for found in stream]
    assert made == taken


@given(st.lists(st.tuples(st.sampled_from(["all", "latest"]), st.integers(0, 30), st.integers(1, 4)), min_size=1))
def test_every_frame_is_handed_out_or_counted_as_dropped(shapes: list[tuple[str, int, int]]) -> None:
    sources = {
        str(number): Scripted([str(i) for i in range(count)], policy=policy, queue_frames=queue)
        for number, (policy, count, queue) in enumerate(shapes[:4])
    }
    multiplexer = make(dict(sources))
    handed: dict[str, list[int]] = {name: [] for name in sources}
    for taken in multiplexer:
        handed[taken.source].append(int(taken.name))
    for name, counters in multiplexer.counters_by_source().items():
        assert counters["frames"] == len(sources[name].names) == len(handed[name]) + counters["dropped"]
        assert handed[name] == sorted(set(handed[name]))
        if sources[name].policy == "all":
            assert counters["dropped"] == 0


class Stuck(Scripted):
    """Does not look whether it is to end."""

    def __init__(self) -> None:
        super().__init__([])
        self.release = threading.Event()

    def frames(self, stopped: Callable[[], bool]) -> Iterator[Any]:
        self.release.wait()
        yield from ()


def test_a_source_that_hangs_keeps_nobody_from_ending(caplog: pytest.LogCaptureFixture) -> None:
    stuck, good = Stuck(), Scripted(["a", "b"], ends=False)
    multiplexer = make({"stuck": stuck, "good": good})
    assert next(iter(multiplexer)).name == "a"
    multiplexer.close(timeout_s=0.2)
    assert (good.closed, stuck.closed) == (True, False)  # what a thread still uses stays open
    assert "thread source-stuck does not end" in caplog.text
    stuck.release.set()

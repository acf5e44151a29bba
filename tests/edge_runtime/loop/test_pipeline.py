"""The objective ``throughput`` with real programs: several frames under way, and every rule of the other mode."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from edge_runtime.inference.heads import Head
from edge_runtime.loop.capture_thread import CaptureThread
from edge_runtime.loop.in_flight_limit import IN_FLIGHT, Admitted, limit_for
from edge_runtime.planner.prediction import Prediction
from edge_runtime.sources import Frame, Source
from edge_runtime.sources.multiplexer import Multiplexer
from edge_runtime.sources.supply import Supply
from split_model.errors import BackendError
from split_model.protocol.server import Denial
from split_model.service.heartbeats import Heartbeats
from tests.edge_runtime.counting import adds_up

ENDS = ("offloaded", "local", "fallback", "failed", "dropped")
THROUGHPUT = {"planner_objective": "throughput", "source_interval_s": 0.0}


def check_every_frame_once(device: Any) -> dict[str, float]:
    indices = [record["index"] for record in device.records()]
    assert sorted(indices) == list(range(len(indices)))
    counters: dict[str, float] = device.counters()
    assert counters["frames_in"] == len(indices) == sum(counters[end] for end in ENDS)
    assert {end: counters[end] for end in ENDS} == {end: device.count(end) for end in ENDS}
    return counters


def test_every_frame_of_a_finite_source_is_answered_once(rig: Any) -> None:
    device = rig.device(rig.server(), source_repeat=4, **THROUGHPUT)
    assert device.ended() == 0
    counters = check_every_frame_once(device)
    assert counters["frames_in"] == 4 * 24
    assert counters["failed"] == 0


def test_frames_overlap(scripted: Any, inside: Any) -> None:
    """At the server: from a request's arrival until the device takes it back."""
    device = inside(scripted.address, scripted.public, objective="throughput").connect(2)
    open_at_once = []

    def unanswered(_: Any) -> bool:
        open_at_once.append(len(scripted.arrived) - len(scripted.cancelled))
        return False

    scripted.answer = unanswered
    steps = list(device.driver.run([device.frame() for _ in range(20)]))
    assert len(steps) == 20
    device.until(lambda: len(scripted.cancelled) == len(scripted.arrived))
    assert max(open_at_once) > 1


def test_the_next_frame_is_taken_and_planned_while_the_board_works(
    scripted: Any, inside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the board would wait for it. The second head is held back until the loop has asked for a third frame."""
    device = inside(scripted.address, scripted.public, objective="throughput").connect(2)
    taken = [threading.Event() for _ in range(3)]
    features = Head.features

    def slow(head: Head, inputs: Any) -> Any:
        assert taken[min(2, next(heads) + 1)].wait(20)
        return features(head, inputs)

    def source() -> Iterator[Frame]:
        for event in taken:
            event.set()
            yield device.frame()

    heads = itertools.count()
    monkeypatch.setattr(Head, "features", slow)
    scripted.answer = lambda arrived: True
    steps = list(device.driver.run(source()))
    assert [step.result.outcome for step in steps] == ["offloaded"] * 3


def test_the_board_works_on_while_a_record_is_written(
    scripted: Any, inside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = inside(scripted.address, scripted.public, objective="throughput").connect(2)
    second_begun, first_answered, second_done = threading.Event(), threading.Event(), threading.Event()
    features = Head.features
    scripted.answer = lambda _: second_begun.wait(20)

    def slow(head: Head, inputs: Any) -> Any:
        if next(heads) == 1:
            second_begun.set()
            assert first_answered.wait(20)
            second_done.set()
        return features(head, inputs)

    heads = itertools.count()
    monkeypatch.setattr(Head, "features", slow)
    steps = iter(device.driver.run([device.frame() for _ in range(2)]))
    next(steps)
    first_answered.set()
    assert second_done.wait(20)  # nobody has asked for another step
    assert len(list(steps)) == 1


class Purse:
    """Pays for so many releases, and remembers which."""

    def __init__(self, releases: int) -> None:
        self.left = releases
        self.paid: list[int] = []

    def payable(self, cuts: Iterable[int], subject: str) -> frozenset[int]:
        return frozenset(cuts)

    def charge(self, cut: int, subject: str) -> bool:
        self.left -= 1
        if self.left >= 0:
            self.paid.append(cut)
        return self.left >= 0


def test_what_arrives_was_paid_for_before_and_what_is_not_paid_for_stays(scripted: Any, inside: Any) -> None:
    purse, paid_on_arrival = Purse(5), []
    device = inside(scripted.address, scripted.public, objective="throughput", account=purse).connect(2)

    def answer(_: Any) -> bool:
        paid_on_arrival.append(len(purse.paid))
        return True

    scripted.answer = answer
    steps = list(device.driver.run([device.frame() for _ in range(9)]))
    assert sorted(step.result.outcome for step in steps) == ["local"] * 4 + ["offloaded"] * 5
    assert all(paid >= arrived for arrived, paid in enumerate(paid_on_arrival, start=1))
    assert len(scripted.arrived) == device.driver.counters.releases == 5
    assert device.driver.counters.ledger_refused == 4
    assert adds_up(device.driver.counters)


def test_the_split_moves_between_frames(scripted: Any, inside: Any) -> None:
    device = inside(scripted.address, scripted.public, objective="throughput").connect(3).connect(2)
    splits = [2, 2, 3, 3, device.planner.local] * 6

    def source() -> Iterator[Frame]:
        for split in splits:
            device.planner.wanted = split
            yield device.frame()

    steps = list(device.driver.run(source()))
    by_index = {step.result.frame.index: step.result for step in steps}
    assert len(by_index) == len(steps) == len(splits)
    assert [by_index[index].split for index in sorted(by_index)] == splits
    assert [arrived.request.cut for arrived in scripted.arrived] == [
        split for split in splits if split != device.planner.local
    ]
    moves = sum(one != other for one, other in itertools.pairwise([device.planner.local, *splits]))
    assert device.driver.counters.moves == moves


def test_of_the_server_and_a_local_run_the_first_is_the_answer(
    scripted: Any, inside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frame is overdue, so the board begins to run it as well; then the server answers after all."""
    device = inside(scripted.address, scripted.public, objective="throughput", answer_within_s=0.2).connect(2)
    begun, may_end = threading.Event(), threading.Event()
    run = device.heads.whole.run

    def slow(tensors: Any) -> Any:
        begun.set()
        assert may_end.wait(20)
        return run(tensors)

    monkeypatch.setattr(device.heads.whole, "run", slow)
    scripted.answer = lambda _: False
    steps = iter(device.driver.run([device.frame()]))

    def late_answer() -> None:
        assert begun.wait(20)
        scripted.do(lambda: scripted.send_answer(scripted.arrived[0].request.request_id))

    threading.Thread(target=late_answer).start()
    result = next(steps).result
    may_end.set()
    assert result.outcome == "offloaded"
    assert list(steps) == []
    assert adds_up(device.driver.counters)


def test_a_run_that_hangs_is_found_though_its_frame_is_answered(
    scripted: Any, inside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it any more but who closes the loop, which comes with a reload too."""
    clock_s, begun, may_end = [0.0], threading.Event(), threading.Event()
    beats = Heartbeats(now=lambda: clock_s[0])
    device = inside(
        scripted.address,
        scripted.public,
        objective="throughput",
        answer_within_s=0.2,
        watch=lambda: beats.work("the board", within_s=1.0),
    ).connect(2)
    run = device.heads.whole.run

    def hangs(tensors: Any) -> Any:
        begun.set()
        assert may_end.wait(20)
        return run(tensors)

    def late_answer() -> None:
        assert begun.wait(20)
        scripted.do(lambda: scripted.send_answer(scripted.arrived[0].request.request_id))

    monkeypatch.setattr(device.heads.whole, "run", hangs)
    scripted.answer = lambda _: False
    threading.Thread(target=late_answer).start()
    steps = iter(device.driver.run([device.frame()]))
    assert next(steps).result.outcome == "offloaded"
    clock_s[0] = 2.0
    assert [name.partition(" #")[0] for name in beats.overdue()] == ["the board"]
    may_end.set()
    assert list(steps) == []
    device.driver.close()
    assert beats.overdue() == []


def test_a_head_that_fails_is_left_for_local_runs(
    scripted: Any, inside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = inside(scripted.address, scripted.public, objective="throughput").connect(2)

    def fail(*_: Any) -> None:
        raise BackendError("no such op")

    monkeypatch.setattr(Head, "features", fail)
    steps = list(device.driver.run([device.frame() for _ in range(6)]))
    assert [step.result.outcome for step in steps] == ["local"] * 6
    assert [step.result.frame.index for step in steps] == list(range(6))
    assert device.driver.counters.releases == 0


def test_a_whole_model_that_fails_is_a_failed_frame(
    scripted: Any, inside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = inside(scripted.address, scripted.public, objective="throughput").connect(2)

    def fail(*_: Any) -> None:
        raise BackendError("out of memory")

    monkeypatch.setattr(device.heads.whole, "run", fail)
    scripted.answer = lambda _: False
    steps = list(device.driver.run([device.frame() for _ in range(3)]))
    assert [(step.result.outcome, step.result.error) for step in steps] == [("failed", "out of memory")] * 3
    device.until(lambda: len(scripted.cancelled) == 3)  # no request is left open
    assert adds_up(device.driver.counters)


def test_a_loop_that_is_left_early_leaves_no_thread(scripted: Any, inside: Any) -> None:
    device = inside(scripted.address, scripted.public, objective="throughput").connect(2)
    steps = iter(device.driver.run([device.frame() for _ in range(9)]))
    next(steps)
    steps.close()
    device.driver.close()
    assert not {"board", "local"}.intersection(thread.name for thread in threading.enumerate())
    # A source may be stuck, so that nobody waits for the thread that captures.
    device.until(lambda: "capture" not in [thread.name for thread in threading.enumerate()])


def test_frames_under_way_are_answered_before_what_the_source_raises(scripted: Any, inside: Any) -> None:
    device = inside(scripted.address, scripted.public, objective="throughput").connect(2)
    scripted.answer = lambda _: False

    def source() -> Any:
        yield device.frame()
        raise OSError("camera unplugged")

    steps = []
    with pytest.raises(OSError, match="unplugged"):
        steps.extend(iter(device.driver.run(source())))
    assert [step.result.outcome for step in steps] == ["fallback"]
    assert adds_up(device.driver.counters)


def test_a_dead_link_is_not_waited_for(scripted: Any, inside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    device = inside(scripted.address, scripted.public, objective="throughput").connect(2)
    device.planner.pinned = True  # else the frame may be finished here before the link's thread is at it again

    def broken() -> None:
        raise RuntimeError("the link is broken")

    def unanswered(_: Any) -> bool:
        monkeypatch.setattr(device.transports[0], "tcp", broken)
        return False

    scripted.answer = unanswered
    frames = (device.frame() for _ in range(2000))  # the first may be done here before the link's thread has ended
    with pytest.raises(RuntimeError, match="the link is broken"):
        list(device.driver.run(frames))


def test_server_killed_with_frames_under_way(rig: Any) -> None:
    server = rig.server()
    device = rig.device(server, **THROUGHPUT)
    device.wait_more("offloaded", 10)
    server.kill()
    device.wait_more("local", 3)
    rig.server(address=server.address)
    device.wait_more("offloaded", 10)
    assert device.stop() == 0
    counters = check_every_frame_once(device)
    assert counters["failed"] == 0


def test_without_a_server_everything_runs_here(rig: Any) -> None:
    device = rig.device(None, source_repeat=1, **THROUGHPUT)
    assert device.ended() == 0
    assert check_every_frame_once(device)["local"] == 24


def test_a_camera_is_answered_while_it_waits_for_its_next_frame(rig: Any) -> None:
    """An answer does not lie there until another frame comes."""
    device = rig.device(
        rig.server(), planner_objective="throughput", source_interval_s=0.5, planner_answer_within_s=5
    )
    device.wait_more("offloaded", 3)
    device.stop()
    check_every_frame_once(device)
    latencies = [f["latency_s"] for f in device.records() if f["outcome"] == "offloaded"]
    assert min(latencies) < 0.45


def prediction(head_s: float, transfer_s: float, rtt_s: float) -> Prediction:
    return Prediction(1, head_s + transfer_s + rtt_s, head_s, transfer_s, rtt_s, 0.0)


@pytest.mark.parametrize(
    ("predicted", "window"),
    [
        (prediction(0.1, 0.0, 0.0), IN_FLIGHT[0]),
        (prediction(0.1, 0.1, 0.1), 4),
        (prediction(0.01, 0.01, 1.0), IN_FLIGHT[1]),
        (prediction(0.1, float("inf"), 0.0), IN_FLIGHT[0]),
    ],
)
def test_window_holds_what_fits_into_one_frames_time(predicted: Prediction, window: int) -> None:
    assert limit_for(predicted) == window


def test_a_server_that_admits_few_is_not_sent_more(
    scripted: Any, inside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each refusal is a release for nothing: one teaches how many the server takes."""
    monkeypatch.setattr("edge_runtime.planner.cut_backoff._SHORT_S", 0.0)
    device = inside(scripted.address, scripted.public, objective="throughput").connect(2)
    refused = []

    def admit(request: Any) -> Any:
        if len(scripted.arrived) == len(scripted.cancelled):
            return None
        refused.append(request.request_id)
        return Denial("busy", "one at a time")

    scripted.admit = admit
    scripted.answer = lambda _: False

    list(device.driver.run([device.frame() for _ in range(20)]))
    # Frames stay here until the server, asked before anything is released, has said that it has time.
    assert 2 <= device.driver.counters.releases <= 20
    assert len(refused) == 1


def test_room_at_the_server_is_learned_from_refusals_and_tried_again() -> None:
    admitted = Admitted()
    assert admitted.frames(1e6) == IN_FLIGHT[1]
    admitted.busy(ahead=5, now_s=1e6)
    admitted.busy(ahead=3, now_s=1e6)
    admitted.busy(ahead=4, now_s=1e6)
    assert admitted.frames(1e6) == 3
    assert admitted.frames(1e6 + 61.0) == 4
    assert admitted.frames(1e6 + 1e4) == IN_FLIGHT[1]
    admitted.busy(ahead=0, now_s=1e6 + 70.0)
    assert admitted.frames(1e6 + 71.0) == 1


def test_of_a_live_source_the_newest_frame_is_taken() -> None:
    """What was captured before it was wanted is old by now: those frames gave way."""
    given = 0

    class Live(Source):
        policy = "latest"

        def frames(self, stopped: Any) -> Any:
            nonlocal given
            while not stopped():
                given += 1
                yield Frame(0, str(given), (), None, 0.0)
                time.sleep(0.001)

    multiplexer = Multiplexer({"live": Supply.of(Live())}, stopped=lambda: False)
    captured = CaptureThread(multiplexer, lambda: None)
    for _ in range(5):
        before = given
        taken = captured.take()
        assert before - 1 <= int(taken.name) <= given
        while given < before + 30:
            time.sleep(0.001)
    captured.close()
    multiplexer.close()


def test_what_a_source_raises_comes_out_after_its_frames() -> None:
    def source() -> Any:
        yield "first"
        raise OSError("camera unplugged")

    captured = CaptureThread(source(), lambda: None)
    assert captured.take() == "first"
    assert captured.take() is None
    assert captured.ended
    assert str(captured.error) == "camera unplugged"

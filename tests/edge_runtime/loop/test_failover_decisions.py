"""A frame whose server stalls, event by event: where its release goes, what is charged, and until when it may."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from edge_runtime.board.cpu_load import LoadEstimator
from edge_runtime.inference.profile import Profile, SplitTiming
from edge_runtime.link.estimator import LinkEstimate
from edge_runtime.link.link_view import LinkView
from edge_runtime.link.trouble import Trouble
from edge_runtime.loop.actions import Action, Done, Emit, FreeLink, PayAndSend, Reserve, Run, SendAgain
from edge_runtime.loop.board_queue import Work, Worker
from edge_runtime.loop.counters import Counters
from edge_runtime.loop.decision_inputs import Model, Moment
from edge_runtime.loop.frame_decisions import FrameDecisions
from edge_runtime.loop.policies import policy_for
from edge_runtime.loop.results import Result
from edge_runtime.loop.scheduler import Scheduler
from edge_runtime.planner.planner import Hysteresis, Planner
from edge_runtime.planner.prediction import SplitProfile
from edge_runtime.sources import Frame
from split_model.protocol import messages as wire
from split_model.protocol.device import Answered, Refused

IDENTITY, CUT, LOCAL = "a" * 64, 2, 9
LOCAL_S, PAYLOAD_BYTES = 0.4, 4_000
OFFERS = (wire.Offer(identity=IDENTITY, name="model", cuts=(CUT,)),)
UP = LinkView(
    True, Trouble.NONE, "", "", OFFERS, 1 << 20, LinkEstimate(1e6, 0.01, 0.3, 0.1), 0.0, 0, 0
)  # fmt: skip
DOWN = replace(UP, up=False, trouble=Trouble.LOST, offers=())
FAR = replace(UP, estimate=LinkEstimate(1e6, 2.0, 0.3, 0.1))  # a round trip of two seconds


class Models:
    def head(self, split: int) -> object | None:
        return split

    def has_local_tail(self, split: int) -> bool:
        del split
        return False

    def with_local_tail(self, profile: SplitProfile) -> SplitProfile:
        return profile


class Purse:
    def payable(self, cuts: Iterable[int], subject: str) -> frozenset[int]:
        del subject
        return frozenset(cuts)


class Board:
    """One board with two servers; does at once what the scheduler asks for, and remembers it."""

    def __init__(self, *, fixed: int | None = None, answer_within_s: float = 1.0) -> None:
        timings = [
            SplitTiming(split=split, head_s=head_s, head_p95_s=head_s, release_s=0.0, payload_bytes=payload_bytes)
            for split, head_s, payload_bytes in ((CUT, 0.01, PAYLOAD_BYTES), (LOCAL, LOCAL_S, 0))
        ]
        profile = Profile(
            bundle=IDENTITY, backend="", threads=1, slowdown=1.0, release="none", splits=tuple(timings)
        )
        decisions = FrameDecisions(
            Model(IDENTITY, "model", LOCAL, profile, {CUT: 100}),
            Planner(
                [SplitProfile(CUT, 0.01, 0.0, PAYLOAD_BYTES), SplitProfile(LOCAL, LOCAL_S)],
                local=LOCAL, hysteresis=Hysteresis(), fixed=fixed,
            ),
            policy=policy_for("latency"), loaded=Models(), account=Purse(), load=LoadEstimator(), may_hedge=False,
            servers=["tcp://hall:5555", "tcp://loft:5555"],
        )  # fmt: skip
        self.counters = Counters()
        self.scheduler = Scheduler(decisions, answer_within_s=answer_within_s, counters=self.counters)
        self.now_s = 100.0
        self.links = [UP, UP]
        self.charged = 0
        self.sent: list[tuple[int, int]] = []  # frame and server
        self.here: list[int] = []  # frames that a local run has begun for
        self.runs: list[Run] = []
        self.results: list[Result] = []
        self.frames = 0

    def moment(self) -> Moment:
        return Moment(self.now_s, tuple(self.links))

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Run) and action.work.worker is Worker.LOCAL_RUNS:
                self.here.append(action.key)
                self.runs.append(action)
            elif isinstance(action, Run):
                done = Done(0.01, payload_bytes=PAYLOAD_BYTES if action.work is not Work.HEAD else 0)
                self.do(self.scheduler.work_done(action.piece, done, self.moment()))
            elif isinstance(action, PayAndSend):
                self.charged += 1
                self.sent.append((action.key, action.server))
                self.do(self.scheduler.sent(action.key, self.moment()))
            elif isinstance(action, SendAgain):
                self.sent.append((action.key, action.server))
            elif isinstance(action, Emit):
                self.results.append(action.step.result)
            else:
                assert isinstance(action, (Reserve, FreeLink)) or action.worker is Worker.LOCAL_RUNS

    def frame(self) -> int:
        """A frame that goes to a server; its key."""
        frame = Frame(self.frames, "", (), None, self.now_s)
        self.frames += 1
        self.do(self.scheduler.frame_arrived(frame, self.moment()))
        assert self.sent
        return self.sent[-1][0]

    def passes(self, seconds: float) -> None:
        """So much time, in steps of a driver, in which nothing is heard."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s = min(until_s, self.now_s + 0.04)
            self.do(self.scheduler.time_passed({}, self.moment()))

    def answers(self, key: int, server: int) -> None:
        answer = wire.Answer(request_id=key, tensors=(), timed_bytes=0, receive_s=0.0, queue_s=0.0, tail_s=0.01)
        answered = Answered(key, answer, memoryview(b""), PAYLOAD_BYTES, 0.2)
        self.do(self.scheduler.answered(key, ["theirs"], answered, self.moment(), server=server))

    def refuses(self, key: int, server: int, code: str = "busy") -> None:
        self.do(self.scheduler.refused(key, Refused(key, code, "no", None), self.moment(), server=server))


@pytest.mark.parametrize("fixed", [None, CUT])
@pytest.mark.parametrize("end", [UP, DOWN])
def test_a_frame_whose_server_stops_or_is_killed_goes_to_the_other_one_charged_once(
    end: LinkView, fixed: int | None
) -> None:
    board = Board(fixed=fixed)
    key = board.frame()
    assert board.sent == [(key, 0)]
    board.links[0] = end  # stopped: still connected, and silent
    board.passes(0.1 if end.up else 0.04)
    assert board.sent == [(key, 0), (key, 1)]
    board.answers(key, 1)
    assert (board.results[0].outcome, board.results[0].server) == ("offloaded", 1)
    assert board.results[0].servers == (0, 1)
    assert board.charged == 1
    assert board.counters.failovers == 1


def test_a_transfer_that_is_only_slow_is_not_sent_twice_over_the_same_uplink() -> None:
    board = Board(fixed=CUT)
    board.links = [replace(UP, estimate=LinkEstimate(2e4, 0.01, 0.3, 0.1))] * 2  # 0.2 s a frame
    key = board.frame()
    for acked in range(500, PAYLOAD_BYTES, 500):  # twice as long
        board.now_s += 0.05
        board.do(board.scheduler.time_passed({(key, 0): acked}, board.moment()))
    assert board.sent == [(key, 0)]


def test_whichever_answers_first_is_the_answer() -> None:
    board = Board()
    key = board.frame()
    board.passes(0.1)
    assert board.sent == [(key, 0), (key, 1)]
    board.answers(key, 0)
    assert (board.results[0].server, board.results[0].servers) == (0, (0, 1))


def test_what_one_server_refuses_goes_to_the_other_and_what_both_refuse_is_finished_here() -> None:
    board = Board()
    key = board.frame()
    board.refuses(key, 0)
    assert board.sent == [(key, 0), (key, 1)]
    assert board.here == []
    board.refuses(key, 1)
    assert board.here == [key]
    assert board.charged == 1


def test_a_refusal_of_the_second_leaves_the_first_which_is_not_waited_for_long() -> None:
    board = Board()
    key = board.frame()
    board.passes(0.1)
    board.refuses(key, 1)
    board.passes(0.04)
    assert board.here == [key]
    board.answers(key, 0)  # it comes back after all, before the local run is done
    assert board.results[0].outcome == "offloaded"


def test_both_silent_ends_here_and_each_was_sent_to_once() -> None:
    board = Board()
    key = board.frame()
    board.passes(3.0)
    assert board.sent == [(key, 0), (key, 1)]
    assert board.here == [key]
    assert board.charged == 1


@pytest.mark.parametrize("fixed", [None, CUT])
def test_a_local_run_begins_in_time_however_late_the_release_went_elsewhere(fixed: int | None) -> None:
    """Answer within 1 s, local run 0.4 s: it begins at 0.6 s, though the second server has just been asked."""
    board = Board(fixed=fixed)
    captured_s = board.now_s
    board.links[1] = DOWN
    key = board.frame()
    board.links[1] = UP
    board.now_s = captured_s + 0.55
    board.do(board.scheduler.time_passed({}, board.moment()))
    assert (key, 1) in board.sent or board.here
    board.now_s = captured_s + 0.6
    board.do(board.scheduler.time_passed({}, board.moment()))
    assert board.here == [key]


def test_a_server_that_could_not_answer_before_this_board_is_not_sent_to() -> None:
    board = Board()
    board.links[1] = FAR
    key = board.frame()
    board.passes(0.3)
    assert board.sent == [(key, 0)]
    assert board.here == [key]


def test_frames_behind_one_that_stalls_go_with_it_and_later_ones_go_elsewhere_at_once() -> None:
    board = Board(fixed=CUT)
    board.links = [replace(UP, estimate=LinkEstimate(4e4, 0.01, 0.3, 0.1))] * 2  # 0.1 s a frame
    first = board.frame()
    board.passes(0.04)
    second = board.frame()
    assert board.sent == [(first, 0), (second, 0)]
    board.links[0] = DOWN
    board.passes(0.04)
    assert board.sent[2:] == [(first, 1), (second, 1)]
    board.links[0] = UP
    third = board.frame()
    assert board.sent[-1] == (third, 1)  # the first server has not been heard from since


def test_with_a_server_away_frames_go_to_the_other_one() -> None:
    board = Board()
    board.links[0] = DOWN
    key = board.frame()
    assert board.sent == [(key, 1)]
    board.passes(0.5)
    assert board.sent == [(key, 1)]
    assert board.here == [key]


def test_a_server_that_is_clearly_sooner_is_used_and_one_that_is_as_good_is_not_moved_to() -> None:
    board = Board()
    board.answers(board.frame(), 0)
    board.now_s += 1.0
    board.answers(board.frame(), 0)
    assert [server for _, server in board.sent] == [0, 0]
    board.links[0] = replace(UP, queue_s=0.2)
    board.now_s += 1.0
    board.answers(board.frame(), 1)
    assert [server for _, server in board.sent] == [0, 0, 1]

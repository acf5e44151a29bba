"""Frames that follow each other on the board: no wait grows from one to the next, and plans follow what changes."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from edge_runtime.board.cpu_load import CpuReadings, LoadEstimator
from edge_runtime.inference.profile import Profile, SplitTiming
from edge_runtime.link.estimator import LinkEstimate
from edge_runtime.link.link_view import LinkView
from edge_runtime.link.trouble import Trouble
from edge_runtime.loop.actions import Done, Emit, Run
from edge_runtime.loop.counters import Counters
from edge_runtime.loop.decision_inputs import Model, Moment
from edge_runtime.loop.frame_decisions import FrameDecisions
from edge_runtime.loop.policies import policy_for
from edge_runtime.loop.results import Step
from edge_runtime.loop.scheduler import Scheduler
from edge_runtime.planner.planner import Hysteresis, Planner
from edge_runtime.planner.prediction import Objective, SplitProfile
from edge_runtime.sources import Frame
from split_model.protocol import messages as wire

IDENTITY, CUT, LOCAL = "a" * 64, 3, 9
LOCAL_S = 0.02
OFFERS = (wire.Offer(identity=IDENTITY, name="model", cuts=(CUT,)),)
SLOW = LinkEstimate(1e4, 0.05, 0.3, 0.1)  # 4 kB take 0.4 s
UP = LinkView(True, Trouble.NONE, "", "", OFFERS, 1 << 20, SLOW, 0.0, 0, 0)


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
    """A board that finishes every frame here, as long as the scheduler lets it."""

    def __init__(self, objective: Objective = "latency") -> None:
        timings = [
            SplitTiming(split=split, head_s=head_s, head_p95_s=head_s, release_s=0.0, payload_bytes=payload_bytes)
            for split, head_s, payload_bytes in ((CUT, 0.01, 4_000), (LOCAL, LOCAL_S, 0))
        ]
        profile = Profile(
            bundle=IDENTITY, backend="", threads=1, slowdown=1.0, release="none", splits=tuple(timings)
        )
        self.load = LoadEstimator(cpus=4)
        decisions = FrameDecisions(
            Model(IDENTITY, "model", LOCAL, profile, {CUT: 100}),
            Planner(
                [SplitProfile(CUT, 0.01, 0.0, 4_000), SplitProfile(LOCAL, LOCAL_S)],
                local=LOCAL, hysteresis=Hysteresis(), objective=objective,
            ),
            policy=policy_for(objective), loaded=Models(), account=Purse(), load=self.load, may_hedge=False,
        )  # fmt: skip
        self.scheduler = Scheduler(decisions, answer_within_s=1.0, counters=Counters())
        self.now_s = 100.0
        self.link = UP
        self.frames = 0

    def frame(self, took_s: float) -> Step:
        """One frame that is finished here in so many seconds."""
        frame = Frame(self.frames, "", (), None, self.now_s)
        self.frames += 1
        (run,) = self.scheduler.frame_arrived(frame, Moment(self.now_s, (self.link,)))
        assert isinstance(run, Run)
        self.now_s += took_s
        moment = Moment(self.now_s, (self.link,))
        (emit,) = self.scheduler.work_done(run.piece, Done(took_s, outputs=["ours"]), moment)
        assert isinstance(emit, Emit)
        return emit.step


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_a_board_that_is_faster_than_its_profile_says_has_no_growing_wait(objective: Objective) -> None:
    board = Board(objective)
    waits_s = set()
    for _ in range(200):
        seen = board.frame(took_s=0.5 * LOCAL_S).decision.seen
        assert seen is not None
        waits_s.add(seen.local_wait_s)
    assert waits_s == {0.0}


def test_frames_in_quick_succession_share_a_plan_until_what_it_was_made_from_changes() -> None:
    board = Board()
    first = board.frame(took_s=0.001)
    assert first.decision.split == LOCAL
    assert board.frame(took_s=0.001).decision.seen is first.decision.seen
    board.load.read(CpuReadings(rivals=9.0))
    assert board.load.factor > 1.0
    loaded = board.frame(took_s=0.001).decision.seen
    assert loaded is not None
    assert loaded.load == board.load.factor
    board.link = replace(UP, up=False, offers=())
    down = board.frame(took_s=0.001).decision.seen
    assert down is not None
    assert not down.link_up
    again = board.frame(took_s=0.1).decision.seen
    assert again is down
    assert board.frame(took_s=0.001).decision.seen is not down


def test_a_move_to_the_board_is_told_of_the_first_frame_only() -> None:
    board = Board()
    board.link = replace(UP, estimate=LinkEstimate(1e8, 0.0001, 0.3, 0.1))
    frame = Frame(0, "", (), None, board.now_s)
    board.scheduler.frame_arrived(frame, Moment(board.now_s, (board.link,)))
    board.scheduler.abandon(Moment(board.now_s, (board.link,)))
    board.link = replace(UP, up=False, offers=())
    assert [board.frame(took_s=0.001).decision.moved_from for _ in range(3)] == [CUT, None, None]

"""The scheduler in any order of events, threads aside: one result for each frame, paid before it is sent, no more.

With two servers any of them may be killed, stop, or be slow at any time: the same release goes to the other one.

SCHEDULER_STEPS sets how many random steps are taken in all (see `make test-scheduler`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from msgspec.structs import replace

from edge_runtime.board.cpu_load import LoadEstimator
from edge_runtime.inference.profile import Profile, SplitTiming
from edge_runtime.link.estimator import LinkEstimate
from edge_runtime.link.link_view import Advice, LinkView
from edge_runtime.link.trouble import Trouble
from edge_runtime.loop.actions import Action, Ask, Done, Emit, FreeLink, PayAndSend, Reserve, Run, SendAgain, Skip
from edge_runtime.loop.board_queue import Work, Worker
from edge_runtime.loop.counters import Counters
from edge_runtime.loop.decision_inputs import Model, Moment
from edge_runtime.loop.frame_decisions import FrameDecisions
from edge_runtime.loop.frame_states import TRANSITIONS, Input, State
from edge_runtime.loop.policies import policy_for
from edge_runtime.loop.results import Step
from edge_runtime.loop.scheduler import Scheduler
from edge_runtime.planner.planner import AfterHead, Decision, Hysteresis, Planner
from edge_runtime.planner.prediction import Conditions, Objective, SplitProfile, predict
from edge_runtime.sources import Frame
from split_model.errors import BadModelError
from split_model.protocol import messages as wire
from split_model.protocol.device import Answered, Refused
from tests.edge_runtime.counting import adds_up

STEPS = int(os.environ.get("SCHEDULER_STEPS", "4000"))
STEPS_EACH = 50
CUTS, LOCAL = (0, 2, 5), 9
IDENTITY = "a" * 64
ANSWER_WITHIN_S = 1.0
PROFILES = [
    SplitProfile(0, 0.0, 0.001, 20_000),
    SplitProfile(2, 0.1, 0.01, 4_000),
    SplitProfile(5, 0.2, 0.01, 1_000),
    SplitProfile(LOCAL, 0.4),
]
chance = st.sampled_from((True, False))


class Wilful(Planner):
    """Decides what the test wants, within what the product allows; ``wanted`` None leaves it to the product."""

    wanted: int | None = None
    send = hedge = True

    def decide(self, conditions: Conditions, *, now_s: float, ready: frozenset[int]) -> Decision:
        decision = super().decide(conditions, now_s=now_s, ready=ready)
        if self.wanted is None:
            return decision
        before = self.split if decision.moved_from is None else decision.moved_from
        split = self.wanted if self.wanted in ready else self.local
        self.split = split
        moved_from = before if split != before else None
        return Decision(split, moved_from, "wanted", decision.predictions, conditions, self.hedge)

    def after_head(self, split: int, conditions: Conditions, *, was_local: bool) -> AfterHead:
        if self.wanted is None:
            return super().after_head(split, conditions, was_local=was_local)
        return AfterHead(self.send, predict(self.profile(split), conditions), hedge=self.hedge)


@dataclass
class Loaded:
    """Which models are loaded; a head in ``broken`` does not load."""

    heads: set[int] = field(default_factory=lambda: set(CUTS))
    tails: set[int] = field(default_factory=set)
    broken: set[int] = field(default_factory=set)

    def head(self, split: int) -> object | None:
        if split in self.broken:
            raise BadModelError("not a model")
        return split if split in self.heads else None

    def has_local_tail(self, split: int) -> bool:
        return split in self.tails

    def with_local_tail(self, profile: SplitProfile) -> SplitProfile:
        return profile


@dataclass
class Purse:
    payable_cuts: set[int] = field(default_factory=lambda: set(CUTS))

    def payable(self, cuts: Iterable[int], subject: str) -> frozenset[int]:
        return frozenset(cuts) & self.payable_cuts


@dataclass
class Known:
    """What the test knows of one frame."""

    frame: Frame
    arrived_s: float = 0.0
    told_no: dict[int, tuple[int, float] | None] = field(default_factory=dict)  # by server
    reserved: bool = False
    freed: bool = False
    paid: int = 0
    sent: list[int] = field(default_factory=list)  # the servers, in this order
    waits_for: set[int] = field(default_factory=set)
    sent_s: float = 0.0
    runs_here: bool = False
    answered: bool = False
    kept: bool = False
    step: Step | None = None


@dataclass
class Far:
    """The link to one server, and what the server said."""

    up: bool = True
    rate: float | None = 1e5
    silent_s: float = 0.0
    offered: tuple[int, ...] = (*CUTS, LOCAL)  # a server may offer what is no cut
    asked: list[int] = field(default_factory=list)
    advice: Advice | None = None
    told_no: tuple[int, float] | None = None

    def view(self, *, can_ask: bool) -> LinkView:
        estimate = LinkEstimate(self.rate, 0.05, 0.3, 0.1, silent_s=self.silent_s)
        offers = (wire.Offer(identity=IDENTITY, name="model", cuts=self.offered),) if self.up else ()
        view = LinkView(self.up, Trouble.NONE, "", "", offers, 1 << 20, estimate, 0.0, 0, 0)
        return replace(view, can_ask=can_ask, advice=self.advice)


class SchedulerMachine(RuleBasedStateMachine):
    objective: Objective = "latency"
    fixed: int | None = None
    servers = 1

    def __init__(self) -> None:
        super().__init__()
        timings = tuple(
            SplitTiming(
                split=p.split,
                head_s=p.head_s,
                head_p95_s=p.head_s * 1.1,
                release_s=p.release_s,
                payload_bytes=p.payload_bytes,
            )
            for p in PROFILES
        )
        profile = Profile(bundle=IDENTITY, backend="", threads=1, slowdown=1.0, release="none", splits=timings)
        self.planner = Wilful(
            PROFILES, local=LOCAL, hysteresis=Hysteresis(), fixed=self.fixed, objective=self.objective
        )
        self.loaded, self.purse, self.counters = Loaded(), Purse(), Counters()
        decisions = FrameDecisions(
            Model(IDENTITY, "model", LOCAL, profile, {0: 100, 2: 70, 5: 30}),
            self.planner,
            policy=policy_for(self.objective),
            loaded=self.loaded,
            account=self.purse,
            load=LoadEstimator(),
            may_hedge=True,
            servers=[f"tcp://server{number}:5555" for number in range(self.servers)],
        )
        self.scheduler = Scheduler(decisions, answer_within_s=ANSWER_WITHIN_S, counters=self.counters)
        self.most = decisions.policy.most
        self.plans_ahead = decisions.policy.plans_ahead
        self.in_order = decisions.policy.in_order
        self.now_s = 100.0
        self.far = [Far() for _ in range(self.servers)]
        self.can_ask = True
        self.known: dict[int, Known] = {}
        self.arrived = 0
        self.work: dict[Worker, list[Run]] = {worker: [] for worker in Worker}
        self.urgent = dict.fromkeys(Worker, 0)
        self.unwanted: set[int] = set()

    # What the driver does.

    def moment(self) -> Moment:
        return Moment(self.now_s, tuple(far.view(can_ask=self.can_ask) for far in self.far))

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Emit):
                known = self.known[action.key]
                assert known.step is None, "a second result"
                assert not known.reserved or known.freed
                known.step = action.step
                if self.in_order:
                    assert all(other.step for key, other in self.known.items() if key < action.key)
                self.check_result(known)
                continue
            if isinstance(action, Reserve):
                assert not self.known[action.key].reserved
                self.known[action.key].reserved = True
            elif isinstance(action, Ask):
                assert self.far[action.server].up
                assert self.can_ask
                assert action.cut in CUTS
                assert 0.0 <= action.due_in_s <= ANSWER_WITHIN_S
                self.far[action.server].asked.append(action.cut)
            elif isinstance(action, SendAgain):
                self.send_again(action)
            elif isinstance(action, Skip):
                self.skip(action)
            elif isinstance(action, Run):
                self.begin(action)
            elif isinstance(action, FreeLink):
                self.known[action.key].freed = True
            else:
                assert self.known[action.key].step is None
                self.pay(action)

    def begin(self, run: Run) -> None:
        known, worker = self.known[run.key], run.work.worker
        assert known.step is None, "work for a frame that is done"
        known.runs_here = known.runs_here or worker is Worker.LOCAL_RUNS
        if run.work is Work.LOCAL_TAIL:
            assert known.kept, "there are no features to go on from"
            assert run.head in self.loaded.tails
        if run.alone:
            assert not self.plans_ahead
            others = [known for key, known in self.known.items() if key != run.key and not known.step]
            assert all(known.freed or not known.reserved for known in others)
            assert not self.work[worker]
            assert not known.sent or known.freed
        waiting = len(self.work[worker])
        if run.first and waiting:
            self.work[worker].insert(1 + self.urgent[worker], run)
            self.urgent[worker] += 1
        else:
            self.work[worker].append(run)

    def skip(self, skip: Skip) -> None:
        present = self.work[skip.worker][:1]
        assert any(run.piece == skip.piece for run in self.work[skip.worker])
        if [run.piece for run in present] != [skip.piece]:
            self.unwanted.add(skip.piece)

    def pay(self, action: PayAndSend) -> None:
        known = self.known[action.key]
        assert not known.freed
        assert not known.paid, "a frame is charged twice"
        assert not known.sent
        assert action.cut in CUTS
        assert action.due_at_s >= self.now_s
        if (told_no := known.told_no.get(action.server)) is not None:
            cut, until_s = told_no
            assert action.cut != cut or known.arrived_s >= until_s, "released where the server had said no"
        if action.cut in self.purse.payable_cuts:
            known.paid += 1  # before it is sent
            known.sent.append(action.server)
            known.sent_s = self.now_s
            known.waits_for.add(action.server)
            self.do(self.scheduler.sent(action.key, self.moment()))
        else:
            self.do(self.scheduler.unpaid(action.key, self.moment()))

    def send_again(self, action: SendAgain) -> None:
        """The same bytes, that are paid for, to a server that has not had them and could answer."""
        known = self.known[action.key]
        assert known.step is None
        assert not known.freed
        assert known.paid == 1, "nothing was paid for"
        assert known.sent
        assert action.server not in known.sent, "sent twice to the same server"
        assert self.far[action.server].up
        known.sent.append(action.server)
        known.waits_for.add(action.server)

    def check_result(self, known: Known) -> None:
        assert known.step is not None
        result = known.step.result
        assert result.servers == tuple(known.sent)
        assert result.frame is known.frame
        assert result.latency_s >= 0.0
        if result.outcome == "offloaded":
            assert known.answered
            assert known.paid == 1
            assert result.server in known.sent
        elif result.outcome == "fallback":
            assert known.paid == 1
            assert known.sent
        elif result.outcome == "local":
            assert not known.sent
            assert result.split == LOCAL
        else:
            assert result.error

    # What happens.

    def at_server(self) -> list[int]:
        return [key for key, known in self.known.items() if known.sent and not known.freed and known.step is None]

    def requests(self) -> list[tuple[int, int]]:
        """The frames and servers of all requests that may be answered."""
        return [(key, server) for key in self.at_server() for server in sorted(self.known[key].waits_for)]

    @precondition(lambda self: self.scheduler.frame_due_s(self.moment()) <= self.now_s)
    @rule(late_s=st.sampled_from((0.0, 0.0, 0.3, 2.0)), readable=st.sampled_from((True,) * 9 + (False,)))
    def a_frame_is_there(self, late_s: float, readable: bool) -> None:
        frame = Frame(self.arrived, "", (), None, self.now_s - late_s, error="" if readable else "not a picture")
        self.arrived += 1
        told_no = {number: far.told_no for number, far in enumerate(self.far)}
        self.known[self.arrived] = Known(frame, self.now_s, told_no)  # the scheduler counts frames from 1
        before = self.scheduler.under_way
        actions = self.scheduler.frame_arrived(frame, self.moment())
        assert before < self.most
        self.do(actions)

    @precondition(lambda self: any(self.work.values()))
    @rule(worker=st.sampled_from(Worker), fails=st.sampled_from((False,) * 7 + (True,)))
    def a_piece_of_work_ends(self, worker: Worker, fails: bool) -> None:
        if not self.work[worker]:
            return
        run = self.work[worker].pop(0)
        if self.work[worker]:
            self.urgent[worker] = max(0, self.urgent[worker] - 1)
        if run.piece in self.unwanted:
            self.unwanted.discard(run.piece)
            self.do(self.scheduler.work_skipped(run.piece))
            return
        timing = next(p for p in PROFILES if p.split == (LOCAL if run.work is Work.WHOLE_MODEL else run.head))
        self.now_s += timing.head_s / 10
        if fails:
            self.do(self.scheduler.work_failed(run.piece, "out of memory", self.moment()))
            return
        known = self.known[run.key]
        known.kept = known.kept or run.keep
        done = Done(timing.head_s, timing.release_s, timing.payload_bytes, outputs=["ours"])
        self.do(self.scheduler.work_done(run.piece, done, self.moment()))

    @precondition(lambda self: self.requests())
    @rule(which=st.integers(0, 11), usable=st.sampled_from((True, True, True, False)), leave=chance)
    def the_server_answers(self, which: int, usable: bool, leave: bool) -> None:
        key, server = self.requests()[which % len(self.requests())]
        load = wire.Load(queue_s=0.1, retry_s=2.0 * leave) if self.can_ask else None
        answer = wire.Answer(
            request_id=key, tensors=(), timed_bytes=0, receive_s=0.0, queue_s=0.0, tail_s=0.01, load=load
        )
        self.known[key].answered = usable
        self.known[key].waits_for.discard(server)
        answered = Answered(key, answer, memoryview(b""), 1_000, 0.2)
        outputs = ["theirs"] if usable else None
        self.do(self.scheduler.answered(key, outputs, answered, self.moment(), server=server))

    @precondition(lambda self: self.requests())
    @rule(
        which=st.integers(0, 11),
        code=st.sampled_from(("busy", "expired", "unknown_cut")),
        retry_s=st.sampled_from((0.0, 0.5)),
    )
    def the_server_refuses(self, which: int, code: str, retry_s: float) -> None:
        key, server = self.requests()[which % len(self.requests())]
        load = wire.Load(queue_s=0.1, retry_s=retry_s) if self.can_ask else None
        self.known[key].waits_for.discard(server)
        self.do(self.scheduler.refused(key, Refused(key, code, "no", load), self.moment(), server=server))

    @precondition(lambda self: any(far.asked for far in self.far))
    @rule(retry_s=st.sampled_from((0.0, 0.2, 5.0)))
    def the_server_says_whether_it_has_time(self, retry_s: float) -> None:
        far = next(far for far in self.far if far.asked)
        cut = far.asked.pop()
        far.advice = Advice(IDENTITY, cut, wire.Load(queue_s=0.01, retry_s=retry_s), self.now_s)
        far.told_no = (cut, self.now_s + retry_s) if retry_s else None

    @rule(seconds=st.sampled_from((0.0, 0.01, 0.04, 0.3, 1.0, 40.0)), acked=st.integers(0, 20_000))
    def time_passes(self, seconds: float, acked: int) -> None:
        self.now_s += seconds
        self.do(self.scheduler.time_passed(dict.fromkeys(self.requests(), acked), self.moment()))
        for key in self.at_server():
            known = self.known[key]
            due_s = max(known.frame.captured_s, known.sent_s) + ANSWER_WITHIN_S
            assert known.runs_here or self.now_s < due_s, "a server is waited for past the deadline"

    @rule(
        which=st.integers(0, 1),
        up=st.sampled_from((True, True, False)),
        rate=st.sampled_from((None, 1e3, 1e5, 1e7)),
        silent=chance,
    )
    def a_link_changes(self, which: int, up: bool, rate: float | None, silent: bool) -> None:
        """A server is killed, or back; or it stops, and is silent; or it, or the way to it, is slow."""
        far = self.far[which % self.servers]
        far.up, far.rate, far.silent_s = up, rate, 0.5 if silent and up else 0.0

    @rule(which=st.integers(0, 1), offered=st.sets(st.sampled_from((*CUTS, LOCAL, 77))))
    def a_server_offers_others(self, which: int, offered: set[int]) -> None:
        self.far[which % self.servers].offered = tuple(sorted(offered))

    @rule(heads=st.sets(st.sampled_from(CUTS)), tails=st.sets(st.sampled_from(CUTS)), broken=chance)
    def models_load(self, heads: set[int], tails: set[int], broken: bool) -> None:
        self.loaded.heads, self.loaded.tails = heads, tails
        self.loaded.broken = {5} if broken else set()

    @rule(cuts=st.sets(st.sampled_from(CUTS)))
    def the_ledger_changes(self, cuts: set[int]) -> None:
        self.purse.payable_cuts = cuts

    @rule(wanted=st.sampled_from((None, *CUTS, *CUTS, LOCAL)), send=chance, hedge=chance)
    def the_planner_wants(self, wanted: int | None, send: bool, hedge: bool) -> None:
        self.planner.wanted, self.planner.send, self.planner.hedge = wanted, send, hedge

    @invariant()
    def no_more_are_under_way_than_the_policy_allows(self) -> None:
        done = sum(known.step is not None for known in self.known.values())
        assert self.scheduler.under_way == self.arrived - done <= self.most

    @invariant()
    def it_looks_again_in_time(self) -> None:
        moment = self.moment()
        if self.at_server() and any(not k.answered for k in self.known.values()):
            assert self.scheduler.wake_s(moment) <= moment.now_s + 0.04

    def teardown(self) -> None:
        """The source has ended: what is under way is finished, with or without the server."""
        for _ in range(1000):
            if not self.scheduler.under_way and not any(self.work.values()):
                break
            for worker in Worker:
                self.a_piece_of_work_ends(worker, fails=False)
            self.time_passes(1.0, acked=0)
        assert self.scheduler.under_way == 0
        assert adds_up(self.counters)
        frames = [known.frame.index for known in self.known.values() if known.step is not None]
        assert sorted(frames) == list(range(self.arrived))
        split = LOCAL if self.fixed is None else self.fixed
        moves = 0
        for known in sorted(self.known.values(), key=lambda known: known.frame.index):
            assert known.step is not None
            decision = known.step.decision
            assert decision.moved_from == (split if decision.split != split else None)
            moves += decision.moved
            split = decision.split
        assert self.counters.moves == moves
        assert self.counters.failovers == sum(max(0, len(known.sent) - 1) for known in self.known.values())


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize(
    ("objective", "fixed"), [("latency", None), ("throughput", None), ("latency", 2), ("throughput", 2)]
)
def test_in_any_order_of_events_each_frame_has_one_result(
    objective: Objective, fixed: int | None, servers: int
) -> None:
    machine = type("Machine", (SchedulerMachine,), {"objective": objective, "fixed": fixed, "servers": servers})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, STEPS // STEPS_EACH // 4),
            stateful_step_count=STEPS_EACH,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_table_of_states_ends_every_frame_and_nothing_follows() -> None:
    reached, todo = set(), [State.PLANNED]
    while todo:
        state = todo.pop()
        if state not in reached:
            reached.add(state)
            todo += [after for (before, _), after in TRANSITIONS.items() if before is state]
    assert reached == set(State)
    assert {what for _, what in TRANSITIONS} == set(Input)
    assert not any(before is State.DONE for before, _ in TRANSITIONS)
    ends = {State.DONE}
    while more := {before for (before, _), after in TRANSITIONS.items() if after in ends} - ends:
        ends |= more
    assert ends == set(State)

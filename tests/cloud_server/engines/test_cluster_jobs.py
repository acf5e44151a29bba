"""Jobs of a cluster, without a cluster: every accepted job has one outcome, whatever happens to its replicas."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cloud_server.engines.cluster_jobs import MOST_LOSSES, ClusterJobs, Ran, Send
from cloud_server.jobs import Done, Failed, Job, Outcome
from split_model.protocol import messages as wire


def job_of(number: int, *, device: str = "some device", due_s: float = 100.0, tail: str = "tail") -> Job:
    """A job whose tail nobody runs."""
    bundle = SimpleNamespace(root="/bundles", identity=tail)
    return Job(
        job_id=number,
        device=device,
        tail=SimpleNamespace(id=(tail, 1, None), bundle=bundle),
        release=wire.NoRelease(),
        payload=bytearray(8),
        queued_s=0.0,
        due_s=due_s,
    )


def done(job: Job) -> Ran:
    return Ran(Done(job_id=job.job_id, tensors=(), payload=b"", queue_s=0.0, tail_s=0.0), 0.001, loaded=False)


class Bench:
    """A cluster of which a test decides everything."""

    def __init__(self, *replicas: str) -> None:
        self.jobs = ClusterJobs(100)
        self.now_s = 0.0
        self.sent: list[Send] = []
        self.outcomes: list[Outcome] = []
        for name in replicas:
            self.jobs.joined(name, name.split("/")[0])

    def submit(self, *jobs: Job) -> None:
        for job in jobs:
            accepted, outcomes = self.jobs.submit(job, self.now_s)
            assert accepted
            self.outcomes += outcomes
        self.turn()

    def turn(self) -> None:
        sends, outcomes = self.jobs.next(self.now_s)
        self.sent += sends
        self.outcomes += outcomes

    def answer(self, send: Send) -> None:
        self.outcomes += self.jobs.answered(send.replica, send.number, [done(job) for job in send.jobs], self.now_s)
        self.turn()

    def lose(self, replica: str) -> None:
        self.outcomes += self.jobs.lost(replica, self.now_s)
        self.turn()

    def knows(self, tail_s: float) -> Bench:
        """Each tail is known to take this long."""
        for number in range(1000, 1005):
            self.submit(job_of(number))
            self.now_s += tail_s
            self.answer(self.sent[-1])
        self.sent.clear()
        self.outcomes.clear()
        return self

    def told(self) -> dict[int, str]:
        return {one.job_id: "done" if isinstance(one, Done) else one.code for one in self.outcomes}


def test_every_replica_gets_a_job_and_the_next_when_it_answers():
    bench = Bench("one/0", "two/0")
    bench.submit(job_of(1), job_of(2), job_of(3))
    assert [(send.replica, [job.job_id for job in send.jobs]) for send in bench.sent] == [
        ("one/0", [1]),
        ("two/0", [2]),
    ]
    bench.answer(bench.sent[1])
    assert bench.sent[2].replica == "two/0"


def test_short_jobs_go_together_and_a_batch_waits_at_the_replica():
    bench = Bench("one/0").knows(0.0002)
    bench.submit(*[job_of(number) for number in range(1, 30)])
    sizes = [len(send.jobs) for send in bench.sent]
    assert len(sizes) == 2
    assert sizes[1] > 1
    bench.answer(bench.sent[0])
    assert len(bench.sent) == 3


def test_long_jobs_do_not_wait_at_a_busy_replica():
    bench = Bench("one/0").knows(0.1)
    bench.submit(*[job_of(number) for number in range(1, 10)])
    assert [len(send.jobs) for send in bench.sent] == [1]


def test_a_job_of_a_lost_replica_runs_on_another_node_though_its_own_has_one_free():
    bench = Bench("one/0", "one/1", "two/0").knows(0.1)
    bench.submit(job_of(1))
    assert bench.sent[-1].replica == "one/0"
    bench.lose("one/0")
    assert bench.sent[-1].replica == "two/0"
    bench.answer(bench.sent[-1])
    assert bench.told() == {1: "done"}


def test_a_job_of_a_lost_replica_waits_for_another_one_as_long_as_it_may():
    bench = Bench("one/0").knows(0.1)
    bench.submit(job_of(1, due_s=10.0), job_of(2, due_s=20.0))
    bench.lose("one/0")
    assert bench.told() == {}
    bench.now_s = 10.0
    bench.turn()
    assert bench.told() == {1: "expired"}
    bench.jobs.joined("one/0", "one")
    bench.turn()
    assert [job.job_id for job in bench.sent[-1].jobs] == [2]


def test_a_job_of_a_lost_replica_that_could_not_be_in_time_is_refused_at_once():
    bench = Bench("one/0", "two/0").knows(1.0)
    bench.submit(job_of(1, due_s=bench.now_s + 1.5))
    bench.now_s += 1.0
    bench.lose(bench.sent[-1].replica)
    assert bench.told() == {1: "expired"}
    assert len(bench.sent) == 1


def test_a_job_that_ends_every_replica_does_not_go_round_the_cluster():
    bench = Bench(*[f"node{number}/0" for number in range(5)])
    bench.submit(job_of(1))
    for _ in range(MOST_LOSSES):
        bench.lose(bench.sent[-1].replica)
    assert bench.told() == {1: "failed"}
    assert len(bench.sent) == MOST_LOSSES


def test_jobs_that_waited_behind_such_a_job_run_all_the_same():
    bench = Bench("one/0").knows(0.0002)
    bench.submit(*[job_of(number) for number in range(1, 40)])
    behind = {job.job_id for job in bench.sent[1].jobs}
    for _ in range(MOST_LOSSES):
        bench.lose("one/0")
        bench.jobs.joined("one/0", "one")
        bench.turn()
    while bench.sent:
        bench.answer(bench.sent.pop())
    assert {bench.told()[number] for number in behind} == {"done"}
    assert len(bench.outcomes) == 39


def test_a_replica_that_does_not_answer_gets_nothing_and_its_job_runs_elsewhere():
    bench = Bench("one/0", "two/0").knows(0.1)
    bench.submit(job_of(1))
    silent = bench.sent[-1].replica
    bench.now_s += 60.0
    bench.turn()
    other = bench.sent[-1]
    assert other.replica != silent
    assert bench.jobs.stuck() == [silent]
    assert bench.jobs.workers == 1
    bench.answer(other)
    bench.answer(bench.sent[0])  # it was only slow
    assert bench.told() == {1: "done"}
    assert len(bench.outcomes) == 1
    assert bench.jobs.workers == 2


def test_an_answer_that_is_due_does_not_wait_for_its_replica():
    bench = Bench("one/0")
    bench.submit(job_of(1, due_s=2.0))
    bench.now_s = 2.0
    bench.turn()
    assert bench.told() == {1: "expired"}
    bench.answer(bench.sent[0])
    assert len(bench.outcomes) == 1


def test_admission_goes_by_the_replicas_that_are_there():
    one, two = Bench("one/0").knows(0.1), Bench("one/0", "two/0").knows(0.1)
    for bench in (one, two):
        bench.submit(*[job_of(number) for number in range(1, 9)])
    waits = [
        bench.jobs.dispatcher.forecast("another", ("tail", 1, None), due_in_s=9.0, now_s=bench.now_s).wait_s
        for bench in (one, two)
    ]
    assert waits[0] == pytest.approx(2 * waits[1], rel=0.1)


class Machine(RuleBasedStateMachine):
    """Replicas come, go, answer late or never; devices submit and cancel; time passes."""

    @initialize()
    def begin(self) -> None:
        self.jobs = ClusterJobs(8)
        self.now_s = 0.0
        self.waited_for: set[int] = set()
        self.outcomes: Counter[int] = Counter()
        self.sends: list[Send] = []
        self.up: dict[str, str] = {}
        self.next_id = 0

    def tell(self, outcomes: list[Outcome]) -> None:
        self.outcomes.update(one.job_id for one in outcomes)

    def turn(self) -> None:
        sends, outcomes = self.jobs.next(self.now_s)
        self.tell(outcomes)
        for send in sends:
            assert send.replica in self.up
            assert all(not self.outcomes[job.job_id] for job in send.jobs)
        self.sends += sends

    @rule(device=st.sampled_from("abc"), due_in_s=st.floats(0.01, 5.0), tail=st.sampled_from(["x", "y"]))
    def submit(self, device: str, due_in_s: float, tail: str) -> None:
        job = job_of(self.next_id, device=device, due_s=self.now_s + due_in_s, tail=tail)
        self.next_id += 1
        accepted, outcomes = self.jobs.submit(job, self.now_s)
        if accepted:
            self.waited_for.add(job.job_id)
        self.tell(outcomes)
        self.turn()

    @rule(name=st.sampled_from(["n/0", "n/1", "m/0", "k/0"]))
    def join(self, name: str) -> None:
        if name not in self.up:
            self.up[name] = name[0]
            self.jobs.joined(name, name[0])
        self.turn()

    @precondition(lambda self: self.up)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.up)))
        del self.up[name]
        self.tell(self.jobs.lost(name, self.now_s))
        self.turn()

    @precondition(lambda self: self.sends)
    @rule(data=st.data(), loaded=st.booleans())
    def answer(self, data: st.DataObject, loaded: bool) -> None:
        """Any message that was ever sent is answered, though its replica may be gone."""
        send = self.sends.pop(data.draw(st.integers(0, len(self.sends) - 1)))
        ran = [Ran(done(job).outcome, 0.001, loaded) for job in send.jobs]
        self.tell(self.jobs.answered(send.replica, send.number, ran, self.now_s))
        self.turn()

    @precondition(lambda self: self.next_id)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.integers(0, self.next_id - 1))
        if job_id in self.waited_for and not self.outcomes[job_id] and not self.jobs.cancel(job_id, self.now_s):
            self.waited_for.remove(job_id)  # nothing will come
        self.turn()

    @rule(seconds=st.sampled_from([0.001, 0.1, 1.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.turn()

    @invariant()
    def nobody_hears_twice(self) -> None:
        assert all(count == 1 for count in self.outcomes.values())
        assert set(self.outcomes) <= self.waited_for

    def teardown(self) -> None:
        self.now_s += 1000.0
        self.turn()
        assert set(self.outcomes) == self.waited_for
        assert self.jobs.queued == 0
        for name in list(self.up):
            self.tell(self.jobs.lost(name, self.now_s))
        assert self.jobs.is_idle
        assert self.jobs.dispatcher.running == 0
        self.nobody_hears_twice()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_refusal_names_no_path():
    bench = Bench("one/0")
    bench.submit(job_of(1, due_s=1.0))
    bench.now_s = 1.0
    bench.turn()
    (outcome,) = bench.outcomes
    assert isinstance(outcome, Failed)
    assert "/" not in outcome.text

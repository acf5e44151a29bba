"""Which requests are let in: nothing where a worker is free is refused, nothing that must be late is let in."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cloud_server.admission import ReturnLine, StandingQueue, TailTimes, WaitRatio
from cloud_server.dispatcher import Dispatcher
from cloud_server.fair_queue import FairQueue

TAIL_S = {"short": 0.001, "long": 0.01}


@dataclass(frozen=True)
class Job:
    job_id: int
    device: str
    tail_id: str
    due_s: float


def measured(places: int = 64, *, workers: int = 2) -> Dispatcher:
    """A dispatcher that has seen each tail often enough to know it."""
    dispatcher = Dispatcher(places, workers=workers)
    for tail, seconds in TAIL_S.items():
        for _ in range(50):
            dispatcher.times.observed(tail, seconds, loaded=False)
    return dispatcher


def filled(jobs: list[tuple[str, str, float]], *, workers: int = 2) -> Dispatcher:
    """A dispatcher at time 0 whose workers are busy, with these jobs behind: device, tail, and when it is due."""
    dispatcher = measured(workers=workers)
    for number in range(workers):
        dispatcher.offer(Job(-1 - number, f"busy {number}", "long", 100.0), 0.0)
        assert dispatcher.take(0.0, kept=False) is not None
    for number, (device, tail, due_s) in enumerate(jobs):
        dispatcher.offer(Job(number, device, tail, due_s), 0.0)
    return dispatcher


WAITING = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(sorted(TAIL_S)), st.floats(0.1, 10.0)), max_size=40
)


@given(st.sampled_from("abz"), st.sampled_from([*TAIL_S, "never seen"]), st.floats(1e-6, 10.0), st.integers(1, 4))
def test_where_a_worker_is_free_nothing_is_refused(device, tail, due_in_s, workers):
    dispatcher = measured(workers=workers)
    assert dispatcher.denial(device, tail, due_in_s=due_in_s, now_s=0.0) is None


@given(WAITING, st.sampled_from("abcdz"), st.sampled_from(sorted(TAIL_S)), st.floats(0.001, 2.0))
def test_what_the_bound_says_is_late_is_not_let_in_and_the_device_hears_when_to_come(jobs, device, tail, due_in_s):
    dispatcher = filled(jobs)
    forecast = dispatcher.forecast(device, tail, due_in_s=due_in_s, now_s=0.0)
    denial = dispatcher.denial(device, tail, due_in_s=due_in_s, now_s=0.0)
    late = forecast.wait_bound_s + forecast.tail_s > due_in_s
    assert (denial is not None and denial.code == "expired") == (late and not forecast.idle)
    if denial is not None:
        assert denial.load is not None
        assert denial.load.retry_s > 0.0
        assert denial.load.queue_s == forecast.wait_bound_s


@given(WAITING, st.sampled_from(sorted(TAIL_S)), st.floats(0.001, 2.0), st.floats(0.0, 2.0))
def test_more_time_and_a_shorter_queue_never_make_a_request_unwelcome(jobs, tail, due_in_s, more_s):
    longer, shorter = filled(jobs), filled(jobs[: len(jobs) // 2])
    if longer.denial("new", tail, due_in_s=due_in_s, now_s=0.0) is None:
        assert longer.denial("new", tail, due_in_s=due_in_s + more_s, now_s=0.0) is None
        assert shorter.denial("new", tail, due_in_s=due_in_s, now_s=0.0) is None


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 8)), max_size=30),
    st.sampled_from("abcd"),
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), max_size=4),
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 4), max_size=4),
)
def test_no_more_goes_before_a_job_than_was_forecast(history, key, costs_s, weights):
    """With nobody else coming, and jobs that take what was expected."""
    queue = FairQueue(1000, lambda name: weights.get(name, 1))
    number = 0
    for name, count in history:
        for _ in range(count):
            number += 1
            cost_s = float(costs_s.get(name, 3))
            queue.offer(number, name, due_s=1e6 + number, now_s=0.0, cost_s=cost_s)
            if number % 3 == 0 and (job_id := queue.take(0.0)) is not None:
                queue.finished(job_id, 1.0, 0.0)
    owner = dict(_owners(history))
    ahead_s, is_next = queue.ahead_s(key, due_s=1e9), queue.is_next(key, due_s=1e9)
    assert is_next == (ahead_s == 0.0)
    queue.offer(0, key, due_s=1e9, now_s=0.0, cost_s=1.0)
    before_s = 0.0
    while (job_id := queue.take(0.0)) != 0:
        assert not is_next
        assert job_id is not None
        cost_s = float(costs_s.get(owner[job_id], 3))
        queue.finished(job_id, cost_s, 0.0)
        before_s += cost_s
    assert before_s <= ahead_s + 1e-6


def _owners(history):
    number = 0
    for name, count in history:
        for _ in range(count):
            number += 1
            yield number, name


def test_tails_are_followed_and_a_first_load_says_nothing():
    times = TailTimes()
    assert times.bound_s("tail") == 0.0
    times.observed("tail", 5.0, loaded=True)
    assert times.bound_s("tail") == 0.0
    for _ in range(100):
        times.observed("tail", 0.01, loaded=False)
    assert times.expected_s("tail") == pytest.approx(0.01)
    assert 0.01 <= times.bound_s("tail") < 0.011
    times.observed("tail", 100.0, loaded=False)  # held up by something else
    assert times.bound_s("tail") < 0.05
    for _ in range(20):
        times.observed("tail", 1.0, loaded=False)
    assert times.expected_s("tail") > 0.5
    for _ in range(100):
        times.observed("tail", 0.01, loaded=False)
    for seconds in (0.01, 0.02) * 50:
        times.observed("tail", seconds, loaded=False)
    assert times.bound_s("tail") > 0.02


def test_a_tail_that_is_loaded_for_every_run_takes_as_long_as_that():
    times = TailTimes()
    for _ in range(100):
        times.observed("tail", 0.5, loaded=True)
    assert times.expected_s("tail") == pytest.approx(0.5)


def test_waits_that_exceed_their_forecast_widen_the_bound_up_to_a_limit():
    ratio = WaitRatio()
    assert ratio.bound == 1.0
    for _ in range(200):
        ratio.observed(0.13, 0.1)
    assert ratio.bound == pytest.approx(1.3, abs=0.05)
    for _ in range(200):
        ratio.observed(100.0, 0.1)
    assert ratio.bound <= 1.5


def test_refused_devices_are_told_to_come_back_one_after_another_and_each_has_one_place():
    line = ReturnLine()
    first = [line.retry_s(f"device {number}", 0.0, cost_s=0.01, now_s=1.0) for number in range(20)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(first)]
    assert gaps == pytest.approx([0.1] * 19)
    for _ in range(1000):
        assert line.retry_s("device 0", 0.0, cost_s=0.01, now_s=1.0) == first[0]  # it pushes nobody back
    assert line.retry_s("another", 0.0, cost_s=0.01, now_s=1.0) == pytest.approx(first[-1] + 0.1)
    assert line.retry_s("late", 5.0, cost_s=0.01, now_s=1.0) == 5.0
    assert line.retry_s("alone", 0.0, cost_s=0.01, now_s=60.0) == pytest.approx(0.1)
    assert max(line.retry_s(f"many {n}", 0.0, cost_s=1.0, now_s=60.0) for n in range(1000)) <= 30.0


def test_devices_are_asked_to_leave_ever_faster_while_the_queue_stands_and_not_after():
    standing = StandingQueue()
    asked_s = []
    for step in range(400):
        now_s = step * 0.01
        standing.waited(0.3, 1.0, now_s=now_s)
        if standing.asks_to_leave(now_s=now_s):
            asked_s.append(now_s)
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked_s)]
    assert asked_s[0] == pytest.approx(0.5)
    assert gaps[0] > gaps[-1] > 0.0
    standing.waited(0.0, 1.0, now_s=4.0)
    assert not standing.asks_to_leave(now_s=4.1)


def test_a_queue_that_comes_and_goes_asks_nobody_to_leave():
    standing = StandingQueue()
    for step in range(1000):
        now_s = step * 0.01
        standing.waited(0.3 if step % 40 else 0.0, 1.0, now_s=now_s)
        assert not standing.asks_to_leave(now_s=now_s)


class Busy:
    """Ten devices that ask one thing at a time and heed what they hear; two that ask all the time and do not."""

    POLITE, GREEDY, DUE_S, TAIL_S, WORKERS = 10, 2, 0.25, TAIL_S["long"], 2

    def __init__(self, *, greedy_due_s: float) -> None:
        self.chance = random.Random(1)
        self.dispatcher = measured(workers=self.WORKERS)
        self.due_s = [self.DUE_S] * self.POLITE + [greedy_due_s] * self.GREEDY
        self.answered = [0] * (self.POLITE + self.GREEDY)
        self.late = self.number = 0
        self.jobs: dict[int, tuple[int, float]] = {}
        self.idle = set(range(self.WORKERS))
        self.events = [(self.chance.random() * 0.01, who, -1, -1) for who in range(len(self.due_s))]

    def run(self, seconds: float) -> None:
        while self.events[0][0] < seconds:
            now_s, who, worker, job_id = heapq.heappop(self.events)
            if worker < 0:
                self.ask(who, now_s)
            else:
                self.done(worker, job_id, now_s)
            self.work(now_s)

    def again(self, who: int, at_s: float) -> None:
        heapq.heappush(self.events, (at_s, who, -1, -1))

    def lose(self, job_id: int, now_s: float) -> None:
        who, _ = self.jobs.pop(job_id)
        if who < self.POLITE:
            self.again(who, now_s + 0.001)

    def ask(self, who: int, now_s: float) -> None:
        if who >= self.POLITE:
            self.again(who, now_s + 0.004)
        denial = self.dispatcher.denial(f"device {who}", "long", due_in_s=self.due_s[who], now_s=now_s)
        if denial is not None:
            if who < self.POLITE:
                assert denial.load is not None
                self.again(who, now_s + denial.load.retry_s * (1.0 + self.chance.random()))
            return
        self.number += 1
        job = Job(self.number, f"device {who}", "long", now_s + self.due_s[who])
        offered = self.dispatcher.offer(job, now_s)
        for lost in offered.late:
            self.lose(lost, now_s)
        if offered.displaced is not None:
            self.lose(offered.displaced, now_s)
        assert offered.accepted  # it was let in a moment ago
        self.jobs[job.job_id] = (who, job.due_s)

    def done(self, worker: int, job_id: int, now_s: float) -> None:
        self.idle.add(worker)
        self.dispatcher.ended(job_id, used_s=self.TAIL_S, busy_s=self.TAIL_S, loaded=False, now_s=now_s)
        who, due_s = self.jobs.pop(job_id)
        self.answered[who] += now_s <= due_s
        self.late += now_s > due_s
        if who < self.POLITE:
            self.again(who, now_s + 0.001)

    def work(self, now_s: float) -> None:
        for worker in sorted(self.idle):
            for lost in self.dispatcher.late(now_s):
                self.lose(lost, now_s)
            job_id = self.dispatcher.take(now_s, kept=worker == self.WORKERS - 1)
            if job_id is not None:
                self.idle.discard(worker)
                heapq.heappush(self.events, (now_s + self.TAIL_S, -1, worker, job_id))


@pytest.mark.parametrize("greedy_due_s", [0.1, 0.25, 1.0, 1e6])
def test_nobody_starves_and_little_work_is_lost_at_three_times_the_capacity(greedy_due_s):
    busy = Busy(greedy_due_s=greedy_due_s)
    busy.run(10.0)
    polite, greedy = busy.answered[: busy.POLITE], busy.answered[busy.POLITE :]
    total = sum(busy.answered)
    assert total >= 0.9 * 10.0 * busy.WORKERS / busy.TAIL_S
    assert busy.late <= 0.01 * total
    assert min(polite) >= 0.8 * sum(polite) / len(polite)
    assert max(greedy) <= 1.3 * sum(polite) / len(polite)


class Life(RuleBasedStateMachine):
    """Requests, workers and time: each job leaves once, and only hopeless ones are given up."""

    WORKERS = 2

    def __init__(self) -> None:
        super().__init__()
        self.dispatcher = measured(8, workers=self.WORKERS)
        self.now_s = 0.0
        self.number = 0
        self.waiting: dict[int, Job] = {}
        self.running: dict[int, float] = {}

    def given_up(self, numbers):
        for number in numbers:
            job = self.waiting.pop(number)
            assert self.now_s + self.dispatcher.times.bound_s(job.tail_id) >= job.due_s

    @rule(device=st.sampled_from("abcd"), tail=st.sampled_from(sorted(TAIL_S)), due_in_s=st.floats(0.001, 0.3))
    def request(self, device, tail, due_in_s):
        idle = self.dispatcher.forecast(device, tail, due_in_s=due_in_s, now_s=self.now_s).idle
        denial = self.dispatcher.denial(device, tail, due_in_s=due_in_s, now_s=self.now_s)
        if not self.waiting and not self.running:
            assert idle
            assert denial is None
        if denial is not None:
            assert not (idle and denial.code == "expired")
            return
        self.number += 1
        job = Job(self.number, device, tail, self.now_s + due_in_s)
        offered = self.dispatcher.offer(job, self.now_s)
        self.given_up(offered.late)
        if offered.displaced is not None:
            del self.waiting[offered.displaced]
        if offered.accepted:
            self.waiting[job.job_id] = job

    @precondition(lambda self: len(self.running) < self.WORKERS)
    @rule(kept=st.booleans())
    def take(self, kept):
        self.given_up(self.dispatcher.late(self.now_s))
        job_id = self.dispatcher.take(self.now_s, kept=kept)
        if job_id is not None:
            assert self.waiting.pop(job_id).due_s > self.now_s
            self.running[job_id] = self.now_s

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data):
        job_id = data.draw(st.sampled_from(sorted(self.running)))
        busy_s = self.now_s - self.running.pop(job_id)
        self.dispatcher.ended(job_id, used_s=busy_s, busy_s=busy_s, loaded=False, now_s=self.now_s)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data):
        job_id = data.draw(st.sampled_from(sorted(self.waiting)))
        assert not self.dispatcher.cancel(job_id)
        del self.waiting[job_id]

    @rule(seconds=st.floats(0.0, 0.05))
    def time_passes(self, seconds):
        self.now_s += seconds

    @rule(device=st.sampled_from("abcd"), tail=st.sampled_from(sorted(TAIL_S)), due_in_s=st.floats(0.001, 0.3))
    def ask(self, device, tail, due_in_s):
        """Asking changes nothing."""
        before = self.dispatcher.denial(device, tail, due_in_s=due_in_s, now_s=self.now_s)
        load = self.dispatcher.load(device, tail, due_in_s=due_in_s, now_s=self.now_s)
        assert load.queue_s >= 0.0
        assert self.dispatcher.denial(device, tail, due_in_s=due_in_s, now_s=self.now_s) == before
        if before is not None and before.code == "expired":
            assert load.retry_s > 0.0

    @invariant()
    def nothing_is_lost(self):
        assert self.dispatcher.queued == len(self.waiting) <= 8
        assert self.dispatcher.running == len(self.running)


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase

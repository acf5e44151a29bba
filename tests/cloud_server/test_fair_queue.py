"""Whose job goes next: turns by the time used, shares of the queue, and every job leaving once."""

from __future__ import annotations

import random
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cloud_server.fair_queue import HERE_S, FairQueue

LATE_S = 1e9


def order(queue: FairQueue, cost_s: float = 1.0) -> list[int]:
    """The jobs in the order in which one worker runs them, each for so long."""
    taken = []
    while (job_id := queue.take(0.0)) is not None:
        queue.finished(job_id, cost_s, 0.0)
        taken.append(job_id)
    return taken


def fill(queue: FairQueue, key: str, jobs: range, *, due_s: float = LATE_S) -> None:
    for job_id in jobs:
        assert queue.offer(job_id, key, due_s=due_s, now_s=0.0).accepted


def test_the_earliest_due_goes_first_within_a_key_and_only_there():
    queue = FairQueue(10)
    for job_id, key, due_s in ((1, "a", 30.0), (2, "a", 10.0), (3, "a", 20.0), (4, "b", 99.0), (5, "b", 98.0)):
        assert queue.offer(job_id, key, due_s=due_s, now_s=0.0).accepted
    assert order(queue) == [2, 5, 3, 4, 1]


def test_who_was_idle_for_long_gets_no_more_than_its_turn():
    queue = FairQueue(100)
    fill(queue, "idle", range(1))
    assert order(queue) == [0]
    fill(queue, "busy", range(1, 51))
    for _ in range(40):
        queue.finished(queue.take(0.0), 1.0, 0.0)
    fill(queue, "idle", range(60, 65))
    assert order(queue)[:8] in ([60, 41, 61, 42, 62, 43, 63, 44], [41, 60, 42, 61, 43, 62, 44, 63])


def test_a_long_tail_is_paid_with_waiting_and_going_away_pays_nothing():
    queue = FairQueue(100)
    fill(queue, "slow", range(1))
    fill(queue, "quick", range(100, 120))
    slow = queue.take(0.0)
    assert slow == 0
    queue.finished(slow, 10.0, 0.0)
    fill(queue, "slow", range(1, 2))
    queue.cancel(1)  # its only one: it is idle now, and comes back at once
    fill(queue, "slow", range(2, 3))
    assert order(queue)[:10] == [*range(100, 110)]


def test_a_new_key_does_not_make_the_old_ones_wait_for_it_to_catch_up():
    queue = FairQueue(100)
    fill(queue, "old", range(40))
    for _ in range(20):
        queue.finished(queue.take(0.0), 1.0, 0.0)
    fill(queue, "new", range(50, 60))
    first = order(queue)[:10]
    assert sum(job_id < 40 for job_id in first) >= 4


def test_free_places_are_lent_and_given_back_down_to_the_share():
    queue = FairQueue(6)
    fill(queue, "greedy", range(6))
    assert queue.share("polite") == 3
    offers = [queue.offer(job_id, "polite", due_s=LATE_S, now_s=0.0) for job_id in range(10, 14)]
    assert [(offer.accepted, offer.displaced) for offer in offers] == [
        (True, 5),  # the one that greedy would have had run last
        (True, 4),
        (True, 3),
        (False, None),
    ]
    assert (queue.waiting("greedy"), queue.waiting("polite")) == (3, 3)


def test_where_half_is_taken_a_key_gets_no_place_that_others_who_are_here_would_take_back():
    queue = FairQueue(8)
    for number in range(4):
        fill(queue, f"key{number}", range(number, number + 1))
    assert order(queue) == [0, 1, 2, 3]  # they have nothing waiting now, and are here all the same
    fill(queue, "many", range(10, 13))
    assert not queue.is_full_for("many", due_s=LATE_S, now_s=0.5)
    fill(queue, "many", range(13, 14))
    assert queue.is_full_for("many", due_s=LATE_S, now_s=0.5)
    assert not queue.is_full_for("key0", due_s=LATE_S, now_s=0.5)
    assert not queue.is_full_for("many", due_s=LATE_S, now_s=0.5 + HERE_S)  # the others are gone


def test_at_its_share_a_key_keeps_what_is_due_first():
    queue = FairQueue(2)
    fill(queue, "a", range(1, 3), due_s=50.0)
    assert queue.offer(3, "a", due_s=40.0, now_s=0.0).displaced == 2
    assert not queue.offer(4, "a", due_s=60.0, now_s=0.0).accepted
    assert order(queue) == [3, 1]


def test_with_more_keys_than_places_nobody_loses_the_one_it_has():
    queue = FairQueue(3)
    for number in range(3):
        fill(queue, f"key{number}", range(number, number + 1))
    assert not queue.offer(9, "late", due_s=0.5, now_s=0.0).accepted
    assert order(queue) == [0, 1, 2]


def test_what_is_past_its_time_makes_room_first():
    queue = FairQueue(2)
    fill(queue, "a", range(1, 2), due_s=5.0)
    fill(queue, "a", range(2, 3), due_s=50.0)
    offered = queue.offer(3, "b", due_s=50.0, now_s=5.0)
    assert (offered.accepted, offered.expired, offered.displaced) == (True, (1,), None)


def test_a_key_that_waits_is_reached_within_a_round_of_the_keys_that_come_and_go():
    """The others never have a second job waiting, so each is idle, and forgotten, between its turns."""
    queue = FairQueue(8)
    fill(queue, "old", range(1))
    queue.finished(queue.take(0.0), 1.0, 0.0)
    fill(queue, "old", range(1, 2))
    for number in range(100, 114):
        queue.offer(number, f"guest{number % 12}", due_s=1.0, now_s=0.0)
        taken = queue.take(0.0)
        queue.finished(taken, 1.0, 0.0)
        if taken == 1:
            return
    pytest.fail("the old key starved")


def test_the_kept_worker_passes_over_a_key_that_has_a_job_running():
    queue = FairQueue(10)
    fill(queue, "greedy", range(3))
    assert queue.take(0.0) == 0
    fill(queue, "late", range(10, 12))
    assert queue.take(0.0, kept=True) == 10
    queue.finished(10, 0.001, 0.0)
    assert queue.take(0.0, kept=True) == 11
    assert queue.take(0.0, kept=True) is None  # only the greedy one waits
    assert queue.take(0.0) == 1


def test_the_kept_worker_passes_over_a_key_that_used_much_even_between_its_jobs():
    queue = FairQueue(10)
    fill(queue, "greedy", range(2))
    queue.finished(queue.take(0.0), 1.0, 0.0)
    fill(queue, "light", range(10, 11))
    queue.finished(queue.take(0.0, kept=True), 0.01, 0.0)
    assert queue.take(0.0, kept=True) is None
    assert queue.take(0.0) == 1


def test_a_key_of_weight_three_gets_three_turns_for_one_and_three_quarters_of_the_places():
    queue = FairQueue(8, {"heavy": 3, "light": 1}.__getitem__)
    fill(queue, "light", range(8))
    for number in range(10, 16):
        queue.offer(number, "heavy", due_s=LATE_S, now_s=0.0)
    assert (queue.waiting("heavy"), queue.waiting("light")) == (6, 2)
    first = order(queue)[:4]
    assert sum(job_id >= 10 for job_id in first) == 3


def test_a_worker_that_can_run_some_jobs_only_passes_over_the_others():
    queue = FairQueue(10)
    fill(queue, "long", range(2))
    fill(queue, "short", range(10, 12))
    assert queue.take(0.0, only=lambda job_id: job_id >= 10) == 10
    assert queue.take(0.0, only=lambda job_id: job_id >= 10) == 11
    assert queue.take(0.0, only=lambda job_id: job_id >= 10) is None
    assert queue.take(0.0) == 0


def test_a_key_that_is_alone_gets_the_kept_worker_too_and_again_once_the_others_are_gone():
    queue = FairQueue(10)
    fill(queue, "alone", range(4))
    assert queue.take(0.0) == 0
    assert queue.take(0.0, kept=True) == 1
    fill(queue, "visitor", range(10, 11))
    assert queue.take(0.0) == 10
    assert queue.take(0.0, kept=True) is None
    assert queue.offer(4, "alone", due_s=LATE_S, now_s=2.0).accepted
    assert queue.take(2.0, kept=True) == 2


@settings(max_examples=60)
@given(
    keys=st.integers(2, 6),
    workers=st.integers(1, 3),
    costs=st.lists(st.floats(0.001, 1.0), min_size=6, max_size=6),
    weights=st.just([1] * 6) | st.lists(st.integers(1, 5), min_size=6, max_size=6),
    seed=st.integers(0, 1 << 32),
)
def test_keys_with_jobs_all_the_time_get_time_by_their_weights(keys, workers, costs, weights, seed):
    """Whatever their tails take and they state, they differ by no more than the workers hold at a time."""
    chance = random.Random(seed)
    queue = FairQueue(64, lambda key: weights[int(key)])
    used_s = [0.0] * keys
    running: list[tuple[float, int, float]] = []  # when it ends, the job, when it began
    number, now_s = 0, 0.0
    lag_s = 4.0 * workers * max(costs)
    for _ in range(400):
        for key in range(keys):
            while queue.waiting(str(key)) < 3:
                number += 1
                queue.offer(number * 10 + key, str(key), due_s=now_s + 2 + chance.random() * key, now_s=0.0)
        while len(running) < workers:
            job_id = queue.take(0.0)
            assert job_id is not None
            running.append((now_s + costs[job_id % 10] * chance.uniform(0.5, 1.0), job_id, now_s))
        now_s, job_id, began_s = min(running)
        running.remove((now_s, job_id, began_s))
        queue.finished(job_id, now_s - began_s, now_s)
        used_s[job_id % 10] += (now_s - began_s) / weights[job_id % 10]
        assert max(used_s) - min(used_s) <= lag_s


KEYS = st.sampled_from(["a", "b", "c", "d", "e"])


class Traffic(RuleBasedStateMachine):
    """Offers, cancels, workers and time against a model of what must hold; a second queue shadows the first."""

    LIMIT = 7
    WORKERS = 2
    WEIGHTS: ClassVar = dict.fromkeys("abcde", 1)

    def __init__(self) -> None:
        super().__init__()
        self.queue, self.shadow = (FairQueue(self.LIMIT, self.WEIGHTS.__getitem__) for _ in range(2))
        self.now_s = 0.0
        self.number = 0
        self.waiting: dict[int, tuple[str, float]] = {}
        self.running: dict[int, str] = {}
        self.seen_s: dict[str, float] = {}
        self.ended: set[int] = set()

    def count(self, key: str) -> int:
        return sum(owner == key for owner, _ in self.waiting.values())

    def leave(self, job_id: int) -> tuple[str, float]:
        assert job_id not in self.ended
        self.ended.add(job_id)
        return self.waiting.pop(job_id)

    @rule(key=KEYS, patience_s=st.integers(0, 20))
    def offer(self, key, patience_s):
        self.number += 1
        self.seen_s[key] = self.now_s
        due_s = self.now_s + patience_s
        arguments = {"due_s": due_s, "now_s": self.now_s}
        before = dict(self.waiting)
        offered = self.queue.offer(self.number, key, **arguments)
        assert self.shadow.offer(self.number, key, **arguments) == offered
        for job_id in offered.expired:
            assert self.leave(job_id)[1] <= self.now_s
        keys = {owner for owner, _ in self.waiting.values()} | {key}
        total = sum(self.WEIGHTS[owner] for owner in keys)
        shares = {owner: max(1, self.LIMIT * self.WEIGHTS[owner] // total) for owner in keys}
        share = shares[key]
        if offered.displaced is not None:
            assert offered.accepted
            loser, lost_due_s = before[offered.displaced]
            assert len(self.waiting) == self.LIMIT
            if loser == key:  # it makes its own choice, for an earlier one
                assert self.count(key) >= share
                assert due_s < lost_due_s
            else:
                assert self.count(loser) > shares[loser]
                assert self.count(key) < share
            assert lost_due_s == max(due for owner, due in self.waiting.values() if owner == loser)
            self.leave(offered.displaced)
        if offered.accepted:
            self.waiting[self.number] = (key, due_s)
        else:
            assert len(self.waiting) == self.LIMIT
            assert self.count(key) >= share or all(self.count(owner) <= shares[owner] for owner in keys)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data):
        job_id = data.draw(st.sampled_from(sorted(self.waiting)))
        for queue in (self.queue, self.shadow):
            queue.cancel(job_id)
        self.leave(job_id)

    @rule(data=st.data())
    def cancel_what_does_not_wait(self, data):
        job_id = data.draw(st.sampled_from([*self.ended, *self.running, -1]))
        for queue in (self.queue, self.shadow):
            queue.cancel(job_id)

    @rule(seconds=st.integers(0, 8))
    def time_passes(self, seconds):
        self.now_s += seconds

    @rule()
    def expire(self):
        expired = self.queue.expire(self.now_s)
        assert self.shadow.expire(self.now_s) == expired
        assert set(expired) == {job_id for job_id, (_, due_s) in self.waiting.items() if due_s <= self.now_s}
        for job_id in expired:
            self.leave(job_id)

    @precondition(lambda self: len(self.running) < self.WORKERS)
    @rule(kept=st.booleans())
    def take(self, kept):
        job_id = self.queue.take(self.now_s, kept=kept)
        assert self.shadow.take(self.now_s, kept=kept) == job_id
        several = sum(at_s >= self.now_s - HERE_S for at_s in self.seen_s.values()) > 1
        if job_id is None:
            assert not self.waiting or (kept and several)
            return
        if kept and several:
            assert self.waiting[job_id][0] not in self.running.values()
        key, due_s = self.waiting[job_id]
        assert due_s == min(due for owner, due in self.waiting.values() if owner == key)
        self.leave(job_id)
        self.running[job_id] = key

    @precondition(lambda self: self.running)
    @rule(data=st.data(), cost_s=st.sampled_from([0.0, 0.001, 1.0, 5.0]))
    def finish(self, data, cost_s):
        job_id = data.draw(st.sampled_from(sorted(self.running)))
        for queue in (self.queue, self.shadow):
            queue.finished(job_id, cost_s, self.now_s)
        del self.running[job_id]

    @invariant()
    def nothing_is_lost_and_the_queue_is_bounded(self):
        assert len(self.queue) == len(self.waiting) <= self.LIMIT
        for key in "abcde":
            assert self.queue.waiting(key) == self.count(key)

    def teardown(self):
        left = order(self.queue)
        assert sorted(left) == sorted(self.waiting)


class WeightedTraffic(Traffic):
    """The same with keys that are not worth the same."""

    WEIGHTS: ClassVar = dict(zip("abcde", (1, 1, 2, 3, 9), strict=True))


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=150, stateful_step_count=60)
TestWeightedTraffic = WeightedTraffic.TestCase
TestWeightedTraffic.settings = TestTraffic.settings

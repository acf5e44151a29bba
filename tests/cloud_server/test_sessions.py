"""The sessions without sockets: who may hold what, and how every request ends."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_server.counters import Counters
from cloud_server.engine import Done, Failed, Job
from cloud_server.limits import ServerLimits
from cloud_server.sessions import Sessions
from cloud_server.tails import TailSet
from split_model.protocol import messages as wire
from split_model.protocol.server import Limits

ANNA, BERT = "A" * 40, "B" * 40
TOTAL = 4 * 2048


def rid(number: int) -> bytes:
    return b"\0" + number.to_bytes(4, "big")


class SlowEngine:
    """Takes jobs up to a limit and keeps them until the test says otherwise."""

    def __init__(self, limit: int = 100) -> None:
        self.jobs: dict[int, Job] = {}
        self.started: set[int] = set()
        self.limit = limit

    def submit(self, job: Job) -> bool:
        if len(self.jobs) >= self.limit:
            return False
        self.jobs[job.job_id] = job
        return True

    def denial(self, device, tail, *, due_in_s):
        return None

    def load(self, device, tail, *, due_in_s):
        return wire.Load(queue_s=0.0, retry_s=0.0)

    load_after = load

    def cancel(self, job_id: int) -> bool:
        self.jobs.pop(job_id, None)
        return job_id in self.started

    @property
    def queued(self) -> int:
        return len(self.jobs)

    running = 0

    def close(self) -> None:
        self.jobs.clear()


class Bench:
    """A sessions, its engine, and peers that send whatever a test wants."""

    def __init__(self, model, *, engine_limit: int = 100, **limits: object) -> None:
        self.model = model
        self.allowed = {ANNA: "anna", BERT: "bert"}
        self.engine = SlowEngine(engine_limit)
        self.sessions = Sessions(
            tails=TailSet([model.bundle]),
            engine=self.engine,
            name_of=self.allowed.get,
            boot_id="server",
            limits=ServerLimits(**limits),
            counters=Counters(),
        )

    def send(self, routing_id, message, payload=None, *, key=ANNA, now_s=0.0):
        frames = [memoryview(wire.encode(message))]
        if payload is not None:
            frames.append(memoryview(payload))
        return [
            (reply.routing_id, reply.message) for reply in self.sessions.receive(routing_id, key, frames, now_s)
        ]

    def hello(self, routing_id, *, key=ANNA, boot_id="boot", now_s=0.0):
        return self.send(routing_id, wire.Hello(versions=(1,), boot_id=boot_id, software="t"), key=key, now_s=now_s)

    def begin(self, routing_id, number, *, key=ANNA, now_s=0.0, **changes):
        return self.send(routing_id, self.model.request(number, **changes), b"x" * 1024, key=key, now_s=now_s)

    def finish(self, routing_id, number, *, key=ANNA, now_s=0.0):
        chunk = wire.Chunk(request_id=number, offset=1024)
        return self.send(routing_id, chunk, b"x" * (TOTAL - 1024), key=key, now_s=now_s)

    def whole(self, routing_id, number, **options):
        return [*self.begin(routing_id, number, **options), *self.finish(routing_id, number)]


def codes(replies):
    return [message.code for _, message in replies if isinstance(message, wire.Refusal)]


@pytest.fixture
def bench(model):
    return Bench(model)


def test_a_device_that_comes_back_leaves_nothing_of_its_old_connection(bench):
    bench.hello(rid(1))
    bench.whole(rid(1), 1)
    bench.begin(rid(1), 2)
    assert bench.sessions.held_bytes == 2 * TOTAL
    bench.hello(rid(2))
    assert bench.sessions.peers == 1
    assert bench.sessions.held_bytes == 0
    assert not bench.engine.jobs
    assert bench.sessions.counters.dropped == 2


def test_two_boots_of_one_key_are_two_devices(bench):
    bench.hello(rid(1), boot_id="one")
    bench.hello(rid(2), boot_id="two")
    assert bench.sessions.peers == 2


def test_the_same_boot_id_under_another_key_touches_nobody(bench):
    bench.hello(rid(1), key=ANNA)
    bench.begin(rid(1), 1)
    bench.hello(rid(2), key=BERT)
    assert bench.sessions.peers == 2
    assert bench.sessions.held_bytes == TOTAL


def test_a_silent_device_is_dropped_with_its_half_sent_features(bench):
    bench.hello(rid(1), now_s=100.0)
    bench.begin(rid(1), 1, now_s=100.0)
    bench.sessions.sweep(115.0)
    assert bench.sessions.held_bytes == TOTAL
    bench.sessions.sweep(115.1)
    assert (bench.sessions.held_bytes, bench.sessions.peers) == (0, 0)
    assert codes(bench.finish(rid(1), 1)) == ["hello_first"]


def test_an_answer_nobody_waits_for_is_counted_and_dropped(bench):
    bench.hello(rid(1))
    bench.whole(rid(1), 1)
    (job,) = bench.engine.jobs.values()
    bench.send(rid(1), wire.Cancel(request_id=1))
    assert not bench.engine.jobs
    assert bench.sessions.finished(Done(job_id=job.job_id, tensors=(), payload=b"", queue_s=0, tail_s=0)) == []
    assert (bench.sessions.counters.cancelled, bench.sessions.counters.late) == (1, 1)


def test_a_cancelled_request_keeps_its_place_and_its_bytes_while_its_tail_runs(model):
    bench = Bench(model, peer=Limits(open_requests=2))
    bench.hello(rid(1))
    for number in (1, 2):
        bench.whole(rid(1), number)
    running = min(bench.engine.jobs)
    bench.engine.started.add(running)
    for number in (1, 2):
        bench.send(rid(1), wire.Cancel(request_id=number))
    assert (bench.sessions.counters.cancelled, bench.sessions.open_jobs, bench.sessions.held_bytes) == (2, 0, TOTAL)
    assert codes(bench.begin(rid(1), 3)) == []
    assert codes(bench.begin(rid(1), 4)) == ["busy"]
    bench.sessions.finished(Done(job_id=running, tensors=(), payload=b"", queue_s=0, tail_s=0))
    assert codes(bench.begin(rid(1), 5)) == []
    assert bench.sessions.held_bytes == 2 * TOTAL


def test_a_revoked_device_gets_no_answer_any_more(bench):
    bench.hello(rid(1))
    bench.whole(rid(1), 1)
    del bench.allowed[ANNA]
    replies = bench.sessions.revoke()
    assert [(r.message.code, r.message.request_id) for r in replies] == [("revoked", 1), ("revoked", None)]
    assert bench.sessions.held_bytes == 0
    assert codes(bench.begin(rid(1), 2)) == ["revoked"]
    assert codes(bench.finish(rid(1), 2)) == []
    bench.allowed[ANNA] = "anna"
    assert codes(bench.begin(rid(1), 3)) == ["hello_first"]


def test_a_routing_id_taken_over_by_another_key_inherits_nothing(bench):
    bench.hello(rid(1), key=ANNA)
    bench.whole(rid(1), 1)
    assert codes(bench.begin(rid(1), 2, key=BERT)) == ["hello_first"]
    assert bench.sessions.held_bytes == 0
    assert not bench.engine.jobs


def test_connections_are_bounded_in_all_and_for_one_key(model):
    bench = Bench(model, peers=3, connections_per_device=2)
    for number in range(2):
        bench.hello(rid(number), boot_id=f"boot{number}")
    assert codes(bench.hello(rid(2), boot_id="boot2")) == ["busy"]
    bench.hello(rid(3), key=BERT)
    assert codes(bench.hello(rid(4), key=BERT, boot_id="other")) == ["busy"]
    assert bench.sessions.peers == 3


def test_features_of_all_devices_together_are_bounded(model):
    bench = Bench(model, held_bytes=2 * TOTAL + 1)
    bench.hello(rid(1), key=ANNA)
    bench.hello(rid(2), key=BERT)
    assert codes(bench.whole(rid(1), 1)) == []  # held by the engine
    assert codes(bench.begin(rid(2), 1, key=BERT)) == []  # half arrived
    assert codes(bench.begin(rid(2), 2, key=BERT)) == ["busy"]
    assert bench.sessions.held_bytes == 2 * TOTAL


def test_one_key_cannot_hold_all_the_features_whatever_its_connections(model):
    bench = Bench(model, held_bytes=9 * TOTAL, peer=Limits(open_requests=8))
    for connection in (1, 2, 3):
        bench.hello(rid(connection), boot_id=f"boot{connection}")
    refused = [
        codes(bench.begin(rid(number % 3 + 1), number, boot_id=f"boot{number % 3 + 1}")) for number in range(9)
    ]
    assert refused == [[]] * 5 + [["busy"]] * 4
    bench.hello(rid(9), key=BERT)
    assert [codes(bench.begin(rid(9), number, key=BERT)) for number in range(3)] == [[], [], ["busy"]]
    for connection in (1, 2, 3):
        bench.sessions.drop(rid(connection))
    assert bench.sessions.held_bytes == 2 * TOTAL
    assert codes(bench.begin(rid(9), 3, key=BERT)) == []


def test_a_connection_cannot_fill_the_queue_alone(model):
    bench = Bench(model, peer=Limits(open_requests=2))
    bench.hello(rid(1))
    assert [codes(bench.whole(rid(1), number)) for number in range(3)][2][0] == "busy"
    assert len(bench.engine.jobs) == 2


def test_a_full_engine_says_busy_and_holds_nothing(model):
    bench = Bench(model, engine_limit=1)
    bench.hello(rid(1))
    bench.whole(rid(1), 1)
    assert codes(bench.whole(rid(1), 2)) == ["busy"]
    assert bench.sessions.held_bytes == TOTAL


def test_a_request_is_due_when_its_device_said(bench):
    bench.hello(rid(1))
    bench.begin(rid(1), 1, now_s=10.0, due_in_s=2.0)
    bench.finish(rid(1), 1, now_s=11.5)
    (job,) = bench.engine.jobs.values()
    assert (job.queued_s, job.due_s) == (11.5, 12.0)


def test_a_stopping_server_takes_nothing_new(bench):
    bench.hello(rid(1))
    bench.sessions.draining = True
    assert codes(bench.begin(rid(1), 1)) == ["busy"]


def test_a_hello_in_between_starts_over(bench):
    bench.hello(rid(1))
    bench.whole(rid(1), 1)
    bench.begin(rid(1), 2)
    bench.hello(rid(1))
    assert bench.sessions.held_bytes == 0
    assert bench.sessions.counters.dropped == 2
    assert codes(bench.whole(rid(1), 1)) == []


STEPS = st.one_of(
    st.tuples(st.just("hello"), st.integers(0, 3), st.sampled_from(["one", "two"])),
    st.tuples(st.sampled_from(["begin", "finish", "cancel", "malformed"]), st.integers(0, 3), st.integers(0, 5)),
    st.tuples(st.sampled_from(["done", "failed"]), st.integers(0, 3), st.just(0)),
    st.tuples(st.sampled_from(["drop", "revoke", "silence"]), st.integers(0, 3), st.just(0)),
)


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(STEPS, max_size=40))
def test_every_request_ends_once_and_what_is_held_is_bounded(model, steps):
    """requests = answered + failed + cancelled + dropped + open, whatever happens in whatever order."""
    bench = Bench(model, engine_limit=3, held_bytes=6 * TOTAL, peer=Limits(open_requests=3))
    sessions, now_s = bench.sessions, 0.0
    refusals: Counter[str] = Counter()
    for what, peer, number in steps:
        key = ANNA if peer < 2 else BERT
        now_s += 1.0
        replies: list = []
        if what == "hello":
            replies = bench.hello(rid(peer), key=key, boot_id=number, now_s=now_s)
        elif what == "begin":
            replies = bench.begin(rid(peer), number, key=key, now_s=now_s, boot_id="one")
        elif what == "finish":
            replies = bench.finish(rid(peer), number, key=key, now_s=now_s)
        elif what == "cancel":
            replies = bench.send(rid(peer), wire.Cancel(request_id=number), key=key, now_s=now_s)
        elif what == "malformed":
            frames = [memoryview(msgspec.msgpack.encode(["chunk", number, "no offset"])), memoryview(b"x")]
            replies = [
                (reply.routing_id, reply.message) for reply in sessions.receive(rid(peer), key, frames, now_s)
            ]
        elif what in ("done", "failed") and bench.engine.jobs:
            job_id = next(iter(bench.engine.jobs))
            del bench.engine.jobs[job_id]
            outcome = (
                Done(job_id=job_id, tensors=(), payload=b"", queue_s=0, tail_s=0)
                if what == "done"
                else Failed(job_id=job_id, code="failed", text="")
            )
            replies = [(reply.routing_id, reply.message) for reply in sessions.finished(outcome)]
        elif what == "drop":
            sessions.drop(rid(peer))
        elif what == "revoke":
            name = bench.allowed.pop(key)
            replies = [(reply.routing_id, reply.message) for reply in sessions.revoke()]
            bench.allowed[key] = name
        elif what == "silence":
            now_s += 20.0
            sessions.sweep(now_s)
        refusals.update(codes(replies))
        counters = sessions.counters
        ended = counters.answered + counters.failed + counters.cancelled + counters.dropped
        assert counters.requests == ended + sessions.held_bytes // TOTAL
        assert sessions.held_bytes <= 6 * TOTAL
        assert len(bench.engine.jobs) == sessions.open_jobs <= 3
        assert counters.refused == refusals
    sessions.sweep(now_s + 1000.0)
    assert (sessions.held_bytes, sessions.peers, bench.engine.jobs) == (0, 0, {})

"""The engine of this machine's cores: order, deadlines, bounds, and a tail that breaks."""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from cloud_server.engine import Done, Failed, Job, LocalEngine, Outcome
from cloud_server.tail_pool import TailPool
from cloud_server.tails import TailSet
from split_model.bundle import Bundle
from split_model.errors import BadBundleError
from split_model.interpreter import open_interpreter
from split_model.protocol import messages as wire
from split_model.service.heartbeats import Heartbeats

PATIENCE_S = 20.0


class Bench:
    """An engine whose workers wait at a gate, so that a test decides what is queued."""

    def __init__(self, bundle: Bundle, **options: int) -> None:
        self.tails = TailSet([bundle])
        self.outcomes: queue.Queue[Outcome] = queue.Queue()
        self.gate = threading.Semaphore(0)
        self.at_gate = threading.Semaphore(0)
        self.now_s = 0.0
        self.beats = Heartbeats(now=lambda: self.now_s)
        settings = {"threads": 1, "tail_threads": 1, "queue": 3, "cache_bytes": 1 << 20} | options
        self.engine = LocalEngine(
            self.tails, deliver=self.outcomes.put, clock=lambda: self.now_s, beats=self.beats, **settings
        )
        undone = self.tails.features

        def features(*arguments, **named):
            self.at_gate.release()
            assert self.gate.acquire(timeout=PATIENCE_S)
            return undone(*arguments, **named)

        self.tails.features = features  # type: ignore[method-assign]

    def job(
        self,
        number: int,
        *,
        device: str = "some device",
        due_s: float = 100.0,
        payload: bytes | None = None,
        cut: int = 1,
    ) -> Job:
        (bundle,) = self.tails.bundles.values()
        tail = self.tails.tails[bundle.identity, cut]
        return Job(
            job_id=number,
            device=device,
            tail=tail,
            release=wire.NoRelease(),
            payload=bytearray(tail.cut.raw_bytes if payload is None else payload),
            queued_s=self.now_s,
            due_s=due_s,
        )

    def occupy(self) -> None:
        """Give the one worker a job and wait until it holds it."""
        assert self.engine.submit(self.job(0))
        assert self.at_gate.acquire(timeout=PATIENCE_S)

    def results(self, count: int) -> list[Outcome]:
        return [self.outcomes.get(timeout=PATIENCE_S) for _ in range(count)]


@pytest.fixture
def make(model) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def bench(**options: int) -> Bench:
        made.append(Bench(model.bundle, **options))
        made[-1].engine.start(preload=False)
        return made[-1]

    yield bench
    for one in made:
        one.engine.close()
        one.gate.release(100)
        one.engine.join(PATIENCE_S)


def test_the_earliest_due_job_of_a_device_goes_first(make):
    bench = make()
    bench.occupy()
    for number, due_s in ((1, 30.0), (2, 10.0), (3, 20.0)):
        assert bench.engine.submit(bench.job(number, due_s=due_s))
    bench.gate.release(4)
    assert [outcome.job_id for outcome in bench.results(4)] == [0, 2, 3, 1]


def test_a_job_past_its_time_is_refused_not_run(make):
    bench = make()
    bench.occupy()
    assert bench.engine.submit(bench.job(1, due_s=5.0))
    bench.now_s = 5.0
    bench.gate.release()
    first, second = bench.results(2)
    assert isinstance(first, Done)
    assert isinstance(second, Failed)
    assert second.code == "expired"


def test_a_full_queue_refuses_until_something_in_it_has_expired(make):
    bench = make()
    bench.occupy()
    assert [bench.engine.submit(bench.job(n, due_s=10.0 * n)) for n in (1, 2, 3, 4)] == [True, True, True, False]
    bench.now_s = 15.0
    assert bench.engine.submit(bench.job(5))
    (expired,) = bench.results(1)
    assert (expired.job_id, expired.code) == (1, "expired")


def test_a_short_due_time_does_not_pass_another_device(make):
    """Both are charged the worker's time that their jobs took, whatever they said of them."""
    bench = make(queue=8)
    bench.occupy()
    for number in (1, 2, 3):
        assert bench.engine.submit(bench.job(number, device="hasty", due_s=1.0 + number))
    for number in (4, 5, 6):
        assert bench.engine.submit(bench.job(number, device="polite", due_s=1e6))
    bench.gate.release(7)
    order = [outcome.job_id for outcome in bench.results(7)]
    assert order == [0, 1, 4, 2, 5, 3, 6]


def test_a_device_that_fills_the_queue_gives_places_back_and_its_lost_jobs_are_told(make):
    bench = make(queue=4)
    bench.occupy()
    for number in (1, 2, 3, 4):
        assert bench.engine.submit(bench.job(number, device="greedy", due_s=1.0 + number))
    assert bench.engine.submit(bench.job(5, device="polite", due_s=1e6))
    assert not bench.engine.submit(bench.job(6, device="greedy", due_s=50.0))
    (lost,) = bench.results(1)
    assert (lost.job_id, lost.code) == (4, "busy")
    assert bench.engine.queued == 4


def test_a_device_is_not_charged_for_the_time_that_its_tail_waited_for_a_processor(make):
    bench = make(queue=300, cache_bytes=1 << 30)  # else the tail may be loaded anew, which its device pays
    bench.occupy()
    bench.gate.release()
    bench.results(1)  # the tail is loaded
    assert bench.engine.submit(bench.job(1, device="unlucky"))
    assert bench.at_gate.acquire(timeout=PATIENCE_S)
    bench.now_s += 50.0
    bench.gate.release()
    bench.results(1)
    bench.occupy()
    assert bench.engine.submit(bench.job(2, device="unlucky", due_s=1e6))
    for number in range(10, 250):
        assert bench.engine.submit(bench.job(number, device="other", due_s=1e6))
    order = []
    for _ in range(242):
        bench.now_s += 1.0
        bench.gate.release()
        order += [outcome.job_id for outcome in bench.results(1)]
        assert len(order) == 242 or bench.at_gate.acquire(timeout=PATIENCE_S)
    assert order[-1] != 2


def test_a_cancelled_job_is_skipped_and_leaves_no_place_behind(make):
    bench = make()
    bench.occupy()
    for number in range(1, 1000):
        assert bench.engine.submit(bench.job(number))
        bench.engine.cancel(number)
    assert bench.engine.queued == 0
    assert bench.engine.submit(bench.job(1000))
    bench.gate.release(2)
    assert [outcome.job_id for outcome in bench.results(2)] == [0, 1000]


def test_a_tail_that_fails_is_told_in_one_line_and_the_worker_lives_on(make, caplog):
    bench = make()
    bench.gate.release(2)
    assert bench.engine.submit(bench.job(1, payload=b"short"))
    (failed,) = bench.results(1)
    assert isinstance(failed, Failed)
    assert failed.code == "failed"
    assert "\n" not in failed.text
    assert failed.text.startswith("ValueError")
    assert bench.engine.submit(bench.job(2))
    assert isinstance(bench.results(1)[0], Done)
    assert "Traceback" in caplog.text  # for the server's own log


def test_waiting_and_running_are_timed_apart(make):
    bench = make()
    bench.occupy()
    bench.engine.submit(bench.job(1))
    bench.now_s = 3.0
    bench.gate.release(2)
    first, second = bench.results(2)
    assert (first.queue_s, first.tail_s) == (0.0, 3.0)
    assert (second.queue_s, second.tail_s) == (3.0, 0.0)


def test_several_workers_run_at_a_time(make):
    bench = make(threads=2)
    for number in (1, 2):
        assert bench.engine.submit(bench.job(number))
    for _ in range(2):
        assert bench.at_gate.acquire(timeout=PATIENCE_S)
    assert bench.engine.running == 2


def test_a_tail_that_does_not_end_is_overdue_and_a_job_that_waits_is_not(make):
    bench = make()
    bench.occupy()
    bench.engine.submit(bench.job(1, due_s=1e9))
    bench.now_s = 100.0
    assert bench.beats.overdue() == []
    bench.now_s = 121.0
    assert [name.split(" #")[0] for name in bench.beats.overdue()] == ["tail-0, cut 1"]
    bench.gate.release(2)
    bench.results(2)
    bench.now_s = 1e6
    assert bench.beats.overdue() == []


def test_a_closed_engine_takes_nothing(make):
    bench = make()
    bench.engine.close()
    assert not bench.engine.submit(bench.job(1))


def test_a_tail_file_changed_after_the_start_is_not_run(model, tmp_path):
    root = shutil.copytree(model.bundle.root, tmp_path / "copy")
    tails = TailSet.open([root])
    (root / "cut-001" / "tail.tflite").write_bytes((root / "model.tflite").read_bytes())
    with pytest.raises(BadBundleError, match="SHA-256 differs"):
        TailPool(1 << 30, tail_threads=1, clock=time.monotonic).borrow(
            tails.tails[next(iter(tails.bundles)), 1], device="some device"
        )


def test_preloading_tells_of_a_bad_tail_before_anybody_asks(make_bundle, tmp_path):
    bundle = make_bundle(tmp_path / "bundle", 3)
    (tmp_path / "bundle" / "cut-001" / "tail.tflite").unlink()
    engine = LocalEngine(
        TailSet([bundle]),
        deliver=lambda outcome: None,
        clock=time.monotonic,
        threads=1,
        tail_threads=1,
        queue=1,
        cache_bytes=1,
    )
    with pytest.raises(BadBundleError):
        engine.start(preload=True)


def run_here(bench: Bench, numbers: range, **options: str) -> list[Outcome]:
    """Submit jobs whose tail is known to be short, and run them in this thread."""
    for number in numbers:
        assert bench.engine.submit(bench.job(number, **options))
    outcomes = []
    while bench.engine.short:
        outcomes += bench.engine.run_short()
    return outcomes


@pytest.fixture
def short_bench(make) -> Bench:
    """An engine that knows its tail, and knows it to be short."""
    bench = make(queue=100, short_s=1e-4)
    bench.gate.release(1000)
    number = 0
    while not bench.engine.short:  # at first by the worker, until the tail's time is known
        assert bench.engine.submit(bench.job(number))
        if not bench.engine.short:
            bench.results(1)
        number += 1
    bench.engine.run_short()
    return bench


def test_a_short_tail_is_run_in_the_thread_that_asks_and_delivered_by_no_worker(short_bench):
    outcomes = run_here(short_bench, range(20, 40))
    assert sorted(outcome.job_id for outcome in outcomes) == list(range(20, 40))
    assert all(isinstance(outcome, Done) for outcome in outcomes)
    assert short_bench.outcomes.empty()
    assert (short_bench.engine.queued, short_bench.engine.running) == (0, 0)


def test_a_tail_that_is_not_known_yet_is_left_to_the_workers(make):
    bench = make(short_s=100.0)
    bench.gate.release()
    assert bench.engine.submit(bench.job(1))
    assert bench.engine.run_short() == []
    assert isinstance(bench.results(1)[0], Done)


def test_a_short_job_past_its_time_is_refused_not_run(short_bench):
    assert short_bench.engine.submit(short_bench.job(20, due_s=5.0))
    assert short_bench.engine.submit(short_bench.job(21))
    short_bench.now_s = 5.0
    late, done = sorted(short_bench.engine.run_short(), key=lambda outcome: outcome.job_id)
    assert isinstance(late, Failed)
    assert late.code == "expired"
    assert isinstance(done, Done)


def test_a_short_job_that_is_cancelled_is_not_run(short_bench):
    for number in (20, 21):
        assert short_bench.engine.submit(short_bench.job(number))
    assert not short_bench.engine.cancel(20)
    assert [outcome.job_id for outcome in short_bench.engine.run_short()] == [21]


def test_a_worker_that_wakes_for_a_long_job_leaves_the_short_ones_to_the_thread_that_asks(short_bench):
    for number in range(20, 30):
        assert short_bench.engine.submit(short_bench.job(number))
    assert short_bench.engine.submit(short_bench.job(30, cut=0, due_s=50.0))  # its time is not known
    assert [outcome.job_id for outcome in short_bench.results(1)] == [30]
    assert short_bench.engine.queued == 10
    assert len(run_here(short_bench, range(0))) == 10
    assert short_bench.outcomes.empty()


def test_short_jobs_of_two_devices_go_in_turn(short_bench):
    for number in range(20, 24):
        assert short_bench.engine.submit(short_bench.job(number, device="one"))
    for number in range(30, 34):
        assert short_bench.engine.submit(short_bench.job(number, device="other"))
    order = []
    while short_bench.engine.short:
        order += [outcome.job_id // 10 for outcome in short_bench.engine.run_short()]
    order += [outcome.job_id // 10 for outcome in short_bench.results(8 - len(order))]
    assert sorted(order[:2]) == sorted(order[2:4]) == [2, 3]


def test_short_jobs_that_run_at_once_give_each_its_own_answer_to_the_last_bit(short_bench, model):
    rng = np.random.default_rng(7)
    sent = [rng.random((1, 2048), np.float32) for _ in range(11)]
    payloads = [array.tobytes() for array in sent] + [b"short"]
    for number, payload in enumerate(payloads, 20):
        assert short_bench.engine.submit(short_bench.job(number, payload=payload))
    outcomes = []
    while short_bench.engine.short:
        outcomes += short_bench.engine.run_short()
    found = {outcome.job_id: outcome for outcome in outcomes}
    assert sorted(found) == list(range(20, 32))
    assert isinstance(found.pop(31), Failed)  # and the others of its batch are none the worse for it
    tail = open_interpreter(model.bundle.path(model.bundle.cut(1).tail))
    for number, array in enumerate(sent, 20):
        assert found[number].payload == tail.run([array])[0].tobytes()
        assert found[number].tensors == (wire.AnswerTensor(dtype="float32", shape=(1, 10)),)


def test_raw_features_come_in_the_order_of_the_live_tensors(model):
    """Two live tensors of different shape and dtype, one after another in the payload."""
    tail = TailSet([model.bundle]).tails[model.bundle.identity, 1]
    one, two = np.arange(6, dtype=np.float32).reshape(1, 6), np.arange(4, dtype=np.int8).reshape(2, 2)
    specs = [
        type(tail.cut.tensors[0])(name=name, shape=array.shape, dtype=array.dtype.name)
        for name, array in (("one", one), ("two", two))
    ]
    import msgspec

    double = type(tail)(tail.bundle, msgspec.structs.replace(tail.cut, tensors=tuple(specs)))
    payload = bytearray(one.tobytes() + two.tobytes())
    found = TailSet([model.bundle]).features(double, wire.NoRelease(), payload, device="some device")
    for got, wanted in zip(found, (one, two), strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)


def test_a_device_is_told_the_problem_and_not_where_the_servers_files_lie(make_bundle, tmp_path, caplog):
    bundle = make_bundle(tmp_path / "a folder" / "bundle")
    bench = Bench(bundle)
    bench.engine.start(preload=False)
    tail = bundle.path(bundle.cut(1).tail)
    tail.write_bytes(tail.read_bytes()[:-1] + b"\x55")
    assert bench.engine.submit(bench.job(1))
    (outcome,) = bench.results(1)
    assert isinstance(outcome, Failed)
    assert outcome.text == f"{bundle.cut(1).tail.path}: SHA-256 differs from the manifest's"
    assert str(tail) in caplog.text
    bench.engine.close()
    bench.engine.join(PATIENCE_S)

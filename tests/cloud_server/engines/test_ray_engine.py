"""The Ray engine on a real cluster of two nodes: the same answers, and none lost or doubled when parts die."""

from __future__ import annotations

import signal
from collections import Counter

import numpy as np

from cloud_server.engine import Done, Failed
from split_model.protocol import messages as wire

FRAMES = 100


def features_of(model, number: int) -> np.ndarray:
    return model.features(model.frame(number))


def check_all_answered(bench, model, expected: dict[int, int], outcomes: list) -> None:
    """Each job has one outcome, the answer of the whole model to its frame."""
    assert Counter(one.job_id for one in outcomes) == Counter(list(expected))
    for job_id, number in expected.items():
        assert bench.payload(job_id) == model.whole(model.frame(number)).tobytes()
    assert bench.quiet()


def test_answers_are_those_of_the_local_engine_to_the_last_bit(slow_tails, on_threads, model):
    local = on_threads(model.bundle)
    sent: list[tuple[np.ndarray, wire.Release]] = []
    for number in range(20):
        features = features_of(model, number)
        noise, noised = model.noise(features, epsilon=4.0)
        sent += [(features, wire.NoRelease()), (noised, noise)]
    answers = []
    for bench in (slow_tails, local):
        numbers = [bench.submit(payload, release=release) for payload, release in sent]
        outcomes = bench.wait(len(sent))
        assert {type(one) for one in outcomes} == {Done}
        answers.append([bench.payload(number) for number in numbers])
    assert answers[0] == answers[1]
    assert answers[0][0] == model.whole(model.frame(0)).tobytes()


def test_a_killed_replica_under_load_costs_no_answer(slow_tails, two_nodes, model):
    slow_tails.until(lambda: slow_tails.engine.workers == 2)
    expected = {slow_tails.submit(features_of(model, number)): number for number in range(FRAMES)}
    outcomes = slow_tails.wait(10)
    two_nodes.replicas()[0].send_signal(signal.SIGKILL)
    outcomes += slow_tails.wait(FRAMES - 10)
    check_all_answered(slow_tails, model, expected, outcomes)
    slow_tails.until(lambda: slow_tails.engine.workers == 2)  # Ray has started it again


def test_a_killed_node_under_load_costs_no_answer_and_a_new_one_is_used(slow_tails, two_nodes, model):
    slow_tails.until(lambda: slow_tails.engine.nodes == 2)
    expected = {slow_tails.submit(features_of(model, number)): number for number in range(FRAMES)}
    outcomes = slow_tails.wait(10)
    two_nodes.kill_node()
    outcomes += slow_tails.wait(FRAMES - 10)
    check_all_answered(slow_tails, model, expected, outcomes)
    slow_tails.until(lambda: slow_tails.engine.nodes == 1)
    two_nodes.new_node()
    slow_tails.until(lambda: slow_tails.engine.nodes == 2)


def test_jobs_that_lose_every_replica_are_refused_at_their_deadline(slow_tails, two_nodes, model):
    slow_tails.until(lambda: slow_tails.engine.workers == 2)
    jobs = [slow_tails.submit(features_of(model, number), due_in_s=0.5) for number in range(FRAMES)]
    for replica in two_nodes.replicas():
        replica.send_signal(signal.SIGKILL)
    outcomes = slow_tails.wait(FRAMES)
    assert Counter(one.job_id for one in outcomes) == Counter(jobs)
    assert {one.code for one in outcomes if isinstance(one, Failed)} == {"expired"}
    assert slow_tails.quiet()

"""The Ray engine on a real cluster of two nodes: the same answers, and none lost or doubled when parts die."""

from __future__ import annotations

import os
import signal
from collections import Counter

import numpy as np
import pytest

from cloud_server.engine import Done, Failed
from cloud_server.engines import ray_access
from cloud_server.engines.ray_cluster import RayCluster
from cloud_server.engines.replica_messages import Settings
from cloud_server.engines.tables import RayTable
from split_model.errors import ConfigError, SplitModelError
from split_model.protocol import messages as wire
from split_model.protocol.device import Answered

FRAMES = 100


def features_of(model, number: int) -> np.ndarray:
    return model.features(model.frame(number))


def check_all_answered(bench, model, expected: dict[int, int], outcomes: list) -> None:
    """Each job has one outcome, the answer of the whole model to its frame."""
    assert Counter(one.job_id for one in outcomes) == Counter(list(expected))
    for job_id, number in expected.items():
        assert bench.payload(job_id) == model.whole(model.frame(number)).tobytes()
    assert bench.quiet()


class TestUnderLoad:
    """One engine whose tails take 20 ms; parts of its cluster die."""

    def test_answers_are_those_of_the_local_engine_to_the_last_bit(self, slow_tails, on_threads, model):
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

    def test_a_killed_replica_under_load_costs_no_answer(self, slow_tails, two_nodes, model):
        slow_tails.until(lambda: slow_tails.engine.workers == 2)
        expected = {slow_tails.submit(features_of(model, number)): number for number in range(FRAMES)}
        outcomes = slow_tails.wait(10)
        two_nodes.replicas()[0].send_signal(signal.SIGKILL)
        outcomes += slow_tails.wait(FRAMES - 10)
        check_all_answered(slow_tails, model, expected, outcomes)
        slow_tails.until(lambda: slow_tails.engine.workers == 2)  # Ray has started it again

    def test_a_killed_node_under_load_costs_no_answer_and_a_new_one_is_used(self, slow_tails, two_nodes, model):
        slow_tails.until(lambda: slow_tails.engine.nodes == 2)
        expected = {slow_tails.submit(features_of(model, number)): number for number in range(FRAMES)}
        outcomes = slow_tails.wait(10)
        two_nodes.kill_node()
        outcomes += slow_tails.wait(FRAMES - 10)
        check_all_answered(slow_tails, model, expected, outcomes)
        slow_tails.until(lambda: slow_tails.engine.nodes == 1)
        two_nodes.new_node()
        slow_tails.until(lambda: slow_tails.engine.nodes == 2)

    def test_jobs_that_lose_every_replica_are_refused_at_their_deadline(self, slow_tails, two_nodes, model):
        slow_tails.until(lambda: slow_tails.engine.workers == 2)
        jobs = [slow_tails.submit(features_of(model, number), due_in_s=0.5) for number in range(FRAMES)]
        for replica in two_nodes.replicas():
            replica.send_signal(signal.SIGKILL)
        outcomes = slow_tails.wait(FRAMES)
        assert Counter(one.job_id for one in outcomes) == Counter(jobs)
        assert {one.code for one in outcomes if isinstance(one, Failed)} == {"expired"}
        assert slow_tails.quiet()


def test_every_tail_is_loaded_before_the_first_request_and_lies_on_the_node_once(on_ray, model, tmp_path):
    bench = on_ray(model.bundle)
    bench.engine.start(preload=True)
    files = {path.name for path in (tmp_path / "tails").iterdir() if not path.name.startswith(".")}
    assert files == {model.bundle.identity, model.bundle.cut(1).tail.sha256, model.bundle.cut(0).tail.sha256}
    written = {name: (tmp_path / "tails" / name).stat().st_ino for name in files}
    bench.until(lambda: bench.engine.workers == 2)
    assert {name: (tmp_path / "tails" / name).stat().st_ino for name in files} == written


def test_a_tail_that_does_not_load_is_told_at_the_start(on_ray, make_bundle, tmp_path):
    bundle = make_bundle(tmp_path / "bundle", 3)
    bundle.path(bundle.cut(1).tail).write_bytes(b"changed")
    with pytest.raises(SplitModelError, match="SHA-256 differs"):
        on_ray(bundle).engine.start(preload=True)


def test_gateways_side_by_side_share_a_cluster_and_one_that_dies_leaves_the_other_alone(
    two_nodes, start, connect, model, tmp_path
):
    engine = {"kind": "ray", "address": two_nodes.address, "gateways": 2, "node_files": str(tmp_path / "tails")}
    servers = [start(folder=name, engine=engine) for name in ("one", "two")]
    devices = [connect(server, server.new_keys("board")).greet() for server in servers]
    for number, device in enumerate(devices):
        frame = model.frame(number)
        ending = device.ask(model.request(number), model.features(frame))
        assert isinstance(ending, Answered)
        assert bytes(ending.payload) == model.whole(frame).tobytes()
        status = servers[number].wait(lambda status: status.counters.answered == 1)
        assert (status.engine, status.threads, status.nodes) == ("ray", 1, 1)
    servers[0].process.kill()
    servers[0].process.wait()
    assert isinstance(devices[1].ask(model.request(7), model.features(model.frame(7))), Answered)
    assert servers[1].stop() == 0


def test_a_cluster_that_takes_the_token_and_never_asks_for_it_is_refused(two_nodes, monkeypatch, tmp_path):
    for name in ray_access.environment(RayTable()):
        monkeypatch.setenv(name, os.environ[name])  # restores what the connection changes
    (tmp_path / "token").write_text("0123456789abcdef" * 4)
    table = RayTable(address=two_nodes.address, token=tmp_path / "token")
    settings = Settings(
        tail_threads=1, cache_bytes=1, node_files=str(tmp_path), node_files_bytes=1, emulated_tail_s=0.0
    )
    with pytest.raises(ConfigError, match="admits clients without a token"):
        RayCluster(table, settings, cpus=1)

"""A real Ray cluster of two nodes on this machine, and engines that run tails on it."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.server.ray_nodes import TwoNodes
from cloud_server.engine import Engine, LocalEngine
from cloud_server.engines import ray_access
from cloud_server.engines.emulated_tails import tail_set
from cloud_server.engines.ray_cluster import RayCluster
from cloud_server.engines.ray_engine import RayEngine
from cloud_server.engines.replica_messages import Settings
from cloud_server.engines.tables import RayTable
from cloud_server.jobs import Done, Job, Outcome
from cloud_server.tails import TailSet
from split_model.bundle import Bundle
from split_model.protocol import messages as wire

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[TwoNodes]:
    before = dict(os.environ)
    os.environ.update(ray_access.environment(RayTable(address="127.0.0.1:6379")))
    cluster = TwoNodes()
    try:
        yield cluster
    finally:
        cluster.close()
        os.environ.clear()
        os.environ.update(before)


class Bench:
    """An engine and what it delivered."""

    def __init__(self, bundle: Bundle, make: Callable[[TailSet, Callable[[Outcome], None]], Engine]) -> None:
        self.tails = TailSet([bundle])
        self.bundle = bundle
        self._delivered: queue.Queue[Outcome] = queue.Queue()
        self.outcomes: list[Outcome] = []
        self.engine = make(self.tails, self._delivered.put)
        self._next_id = 0

    def submit(
        self,
        features: np.ndarray,
        *,
        release: wire.Release | None = None,
        device: str = "a device",
        due_in_s: float = 60.0,
    ) -> int:
        self._next_id += 1
        now_s = time.monotonic()
        job = Job(
            job_id=self._next_id,
            device="a device",
            tail=self.tails.tails[self.bundle.identity, 1],
            release=release or wire.NoRelease(),
            payload=bytearray(features.tobytes()),
            queued_s=now_s,
            due_s=now_s + due_in_s,
        )
        assert self.engine.submit(job)
        return job.job_id

    def wait(self, count: int) -> list[Outcome]:
        """The next outcomes."""
        found = [self._delivered.get(timeout=PATIENCE_S) for _ in range(count)]
        self.outcomes += found
        return found

    def payload(self, job_id: int) -> bytes:
        (outcome,) = [one for one in self.outcomes if one.job_id == job_id]
        assert isinstance(outcome, Done), outcome
        return outcome.payload

    def quiet(self) -> bool:
        """Nothing comes after the last outcome."""
        time.sleep(0.3)
        return self._delivered.empty()

    def until(self, holds: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline_s
            time.sleep(0.05)

    def close(self) -> None:
        self.engine.close()
        self.engine.join(5.0)


def engine_on_ray(
    cluster: TwoNodes, bundle: Bundle, files: Path, *, emulated_tail_s: float = 0.0, **table: object
) -> Bench:
    """An engine on the cluster that is not started; one at a time, for a process has one connection to Ray."""
    chosen = RayTable(address=cluster.address, **table)
    settings = Settings(
        tail_threads=1,
        cache_bytes=256 << 20,
        node_files=str(files),
        node_files_bytes=1 << 30,
        emulated_tail_s=emulated_tail_s,
    )

    def engine(tails: TailSet, deliver: Callable[[Outcome], None]) -> Engine:
        return RayEngine(
            tails,
            RayCluster(chosen, settings, cpus=1),
            table=chosen,
            tail_threads=1,
            deliver=deliver,
            clock=time.monotonic,
            queue_places=1000,
        )

    return Bench(bundle, engine)


@pytest.fixture
def on_ray(two_nodes, tmp_path) -> Iterator[Callable[..., Bench]]:
    """Make an engine on the cluster, with its files in ``tmp_path / "tails"``."""
    made: list[Bench] = []

    def make(bundle: Bundle, **table: object) -> Bench:
        made.append(engine_on_ray(two_nodes, bundle, tmp_path / "tails", **table))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture(scope="class")
def slow_tails(two_nodes, model, tmp_path_factory) -> Iterator[Bench]:
    """An engine for all tests of a class, whose tails take 20 ms."""
    folder = tmp_path_factory.mktemp("node") / "tails"
    bench = engine_on_ray(two_nodes, model.bundle, folder, emulated_tail_s=0.02)
    bench.engine.start(preload=False)
    yield bench
    bench.close()


@pytest.fixture
def on_threads() -> Iterator[Callable[..., Bench]]:
    """Make an engine of this machine's threads."""
    made: list[Bench] = []

    def make(bundle: Bundle) -> Bench:
        def engine(tails: TailSet, deliver: Callable[[Outcome], None]) -> Engine:
            return LocalEngine(
                tail_set(tails.bundles.values(), emulated_tail_s=0.0),
                deliver=deliver,
                clock=time.monotonic,
                threads=2,
                tail_threads=1,
                queue=1000,
                cache_bytes=256 << 20,
            )

        made.append(Bench(bundle, engine))
        made[-1].engine.start(preload=False)
        return made[-1]

    yield make
    for bench in made:
        bench.close()
